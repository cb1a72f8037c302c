"""The examples of clients/python/README.md, run from their own text, with every third connection cut."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.faulty_proxy import FaultyProxy, faulty_proxy
from support.process import ServiceProcess, serving
from support.settings import API_KEY
from support.waiting import wait_until

README = Path(__file__).parents[3] / "clients/python/README.md"
EXAMPLES = dict(
    re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
)


@pytest.fixture
def own_service(database_url: str, tmp_path: Path) -> Iterator[ServiceProcess]:
    with serving(tmp_path, DATABASE_URL=database_url, APP_ENV="production") as process:
        with process.client() as client:
            while client.get("/api/health/ready").status_code != 200:
                time.sleep(0.05)
        yield process


@pytest.fixture
def proxy(own_service: ServiceProcess) -> Iterator[FaultyProxy]:
    with faulty_proxy(int(own_service.url.rpartition(":")[2]), "none", "none", "cut") as running:
        yield running


def start(name: str, proxy: FaultyProxy, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", EXAMPLES[name]],
        cwd=folder,
        env={**os.environ, "USER_SERVICE_URL": proxy.url, "USER_SERVICE_API_KEY": API_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(name: str, proxy: FaultyProxy, folder: Path) -> list[str]:
    """The lines that an example prints."""
    process = start(name, proxy, folder)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.splitlines()


def test_a_new_caller_needs_ten_lines_for_each_task() -> None:
    assert len(EXAMPLES) == 8
    for name, text in EXAMPLES.items():
        assert len([line for line in text.splitlines() if line.strip()]) <= 10, name


def test_the_examples_have_one_effect_each_behind_a_proxy_that_cuts(
    own_service: ServiceProcess, proxy: FaultyProxy, tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_text("email,given_name\ngrace@example.org,Grace\nnobody,No\n")

    created = run("Create a user", proxy, tmp_path)
    created_again = run("Create a user", proxy, tmp_path)
    changed = run("Find and change it", proxy, tmp_path)
    listed = run("List", proxy, tmp_path)
    batch = run("Many at once", proxy, tmp_path)
    imported = run("Import a file", proxy, tmp_path)
    found = run("asyncio", proxy, tmp_path)

    ada = created[0].split()[0]
    assert created == [f"{ada} 1"]
    assert created_again[0].startswith("taken; request ")
    assert changed == ["Countess"]
    assert listed == [f"{ada} ada@example.org", "1 active users"]
    assert batch == ["2500 created"]
    assert [line for line in imported if not line.startswith("line ")] == [
        "1 created, 1 failed",
        "3 email validation_failed",
    ]
    assert found == [ada]
    assert proxy.taken.count("cut") > 3
    assert [(user["email"], user["version"]) for user in export(own_service)[:1]] == [("ada@example.org", 2)]
    assert len(export(own_service)) == 1 + 2500 + 1


def export(service: ServiceProcess) -> list[dict[str, Any]]:
    with service.client() as client:
        return [json.loads(line) for line in client.get("/api/v1/users/export").text.splitlines()]


def test_the_follower_continues_where_it_was_ended(
    own_service: ServiceProcess, proxy: FaultyProxy, tmp_path: Path
) -> None:
    run("Create a user", proxy, tmp_path)
    lines = []
    for _ in range(2):
        process = start("Follow the changes", proxy, tmp_path)
        assert process.stdout is not None
        lines.append(process.stdout.readline().split()[:3])
        wait_until((tmp_path / "cursor").exists, "the cursor")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with own_service.client() as client:
            client.post("/api/v1/users", json={"email": f"later-{len(lines)}@example.org"}).raise_for_status()

    assert [line[0] for line in lines] == ["created", "created"]
    assert lines[0] != lines[1]


def test_the_receiver_of_events_refuses_what_is_not_signed() -> None:
    program = EXAMPLES["Events"] + "\nassert receive({}, b'{}') == 400\n"

    subprocess.run([sys.executable, "-c", program], check=True)
