"""clients/typescript: it builds from the document of today, and its own tests pass against the live service."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest

from support.api import create_user
from support.faulty_proxy import faulty_proxy
from support.http_messages import problem, respond
from support.ports import free_port
from support.process import ServiceProcess, serving
from support.settings import API_KEY
from support.waiting import wait_until
from user_service_client import Client

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "clients/typescript"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BUSY = problem(503, "overloaded", "Retry-After: 0")
HTML = respond(200, "text/html", "<html>sign in</html>")
FAULTS = {
    "none": ["none"],
    "cut": ["none", "none", "cut"],
    "drop": ["drop", "none"],
    "repeat": ["repeat"],
    "mixed": ["cut_response", "repeat", "drop", "cut", "none"],
    "cut upload": ["cut_upload", "cut_upload", "none"],
    "only cut uploads": ["cut_upload", "none"],
    "half": ["cut_response", "cut_response", "none"],
    "slow": ["slow"],
    "stops": ["none", respond(404, "text/html", "<html>no such page</html>")],
    "delay": ["none", "none", "none", "delay"],
    "busy": [BUSY, problem(429, "rate_limited", "Retry-After: 0"), problem(409, "idempotency_in_progress"), "none"],
    "garbage": [
        HTML,
        respond(200, "application/json", '{"id": "0198'),
        respond(502, "text/html", "x"),
        b"\x00",
        "none",
    ],
    "only busy": [BUSY],
    "only garbage": [HTML],
    "only dropped": ["drop"],
}
# What waiting does not mend; each proxy may be asked once.
FINAL = {
    "far retry": problem(503, "overloaded", "Retry-After: 3600"),
    "redirect": respond(301, "text/html", "", "Location: http://127.0.0.1:1/"),
    "html 404": respond(404, "text/html", "<html>no such page</html>"),
    "internal error": problem(500, "internal_error"),
}
# A program of one example: it is type-checked beside the built client, and run.
README_COMPILER = [
    "--module",
    "nodenext",
    "--target",
    "es2022",
    "--strict",
    "--noUncheckedIndexedAccess",
    "--types",
    "node",
]


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[ServiceProcess]:
    with serving(tmp_path, DATABASE_URL=database_url, APP_ENV="production") as process:
        with process.client() as client:
            while client.get("/api/health/ready").status_code != 200:
                time.sleep(0.05)
        yield process


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A copy of the client, built by the script of this project."""
    if shutil.which("npm") is None:
        pytest.fail("The client for TypeScript needs Node.js 20 or later with npm: apt-get install nodejs npm")
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in names:
        (tmp_path / "client" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOLDER / name, tmp_path / "client" / name)
    run(["bash", str(ROOT / "scripts/build-typescript"), str(tmp_path / "client")], ROOT)
    return tmp_path / "client"


def run(command: list[str], folder: Path, **environ: str) -> str:
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_client_builds_and_its_tests_and_examples_run(
    built: Path, service: ServiceProcess, database_url: str, tmp_path: Path
) -> None:
    port = int(service.url.rpartition(":")[2])
    faults = FAULTS | {name: [fault] for name, fault in FINAL.items()}
    with ExitStack() as stack:
        proxies = {name: stack.enter_context(faulty_proxy(port, *each)) for name, each in faults.items()}
        urls = json.dumps({name: proxy.url for name, proxy in proxies.items()})
        said = run(["npm", "test", "--silent"], built, PROXIES=urls, USER_SERVICE_API_KEY=API_KEY)
        examples = compile_examples(built)
        received = receive_an_event(examples.pop("Receive events"), built, database_url, tmp_path)
        lines = run_examples(examples, built, proxies["cut"].url)
    with Client(service.url, api_key=API_KEY) as client:
        resumed = client.users.import_file(built / "users.csv")

    assert int(re.findall(r"# pass (\d+)", said)[0]) > 60
    assert re.findall(r"# (?:fail|skipped) (\d+)", said) == ["0", "0"]
    assert [len(proxies[name].taken) for name in FINAL] == [1, 1, 1, 1]
    assert all(len(proxies[name].taken) > 1 for name in ("only busy", "only garbage", "only dropped"))
    ada = lines["Create a user"][0].split()[0]
    assert lines["Find and change it"] == ["Countess 2"]
    assert lines["List"] == [f"{ada} ada@example.org"]
    assert lines["Many at once"] == ["2500 created"]
    assert [line for line in lines["Import a file"] if not line.startswith("line ")] == [
        "1 created, 1 failed",
        "3 email validation_failed",
    ]
    # The client for Python knows the import by the same key.
    assert (resumed.created, resumed.was_done_before) == (1, True)
    assert lines["Follow the changes"][0].startswith("created ")
    assert re.fullmatch(r"created [0-9a-f-]{36} 1 .*\bemail\b.*", received)


def compile_examples(built: Path) -> dict[str, list[str]]:
    """The commands that run the examples of the README, each from its own text."""
    text = (FOLDER / "README.md").read_text()
    examples = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```ts\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(examples) == 7
    (built / "examples").mkdir()
    files = []
    for number, (name, example) in enumerate(examples.items()):
        assert len([line for line in example.splitlines() if line.strip()]) <= 10, name
        file = built / f"examples/example{number}.mts"
        file.write_text(example)
        files.append(str(file))
    run(["npx", "tsc", *README_COMPILER, *files], built)
    return {name: ["node", str(Path(file).with_suffix(".mjs"))] for name, file in zip(examples, files, strict=True)}


def run_examples(commands: dict[str, list[str]], built: Path, url: str) -> dict[str, list[str]]:
    """The lines that each example prints."""
    (built / "users.csv").write_text("email\ngrace@example.org\nnobody\n")
    environ = {"USER_SERVICE_URL": url, "USER_SERVICE_API_KEY": API_KEY}
    lines = {}
    for name, command in commands.items():
        if name == "Follow the changes":
            with started(command, built, **environ) as output:
                lines[name] = [output.readline()]
        else:
            lines[name] = run(command, built, **environ).splitlines()
    return lines


def receive_an_event(command: list[str], built: Path, database_url: str, folder: Path) -> str:
    """What the example prints of the event that a service sends to it. It refuses what is none."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def is_listening() -> bool:
        try:
            return httpx.post(url, json={}).status_code == 400
        except httpx.TransportError:
            return False

    with started(command, built, PORT=str(port), EVENT_SINK_SECRET=SECRET) as output:
        wait_until(is_listening, "the example to listen")
        environ = {"DATABASE_URL": database_url, "EVENT_SINK_URL": url, "EVENT_SINK_SECRET": SECRET}
        with serving(folder, **environ) as service, service.client() as client:
            create_user(client)
            return output.readline().strip()


@contextmanager
def started(command: list[str], folder: Path, **environ: str) -> Iterator[IO[str]]:
    """The output of a program that does not end by itself."""
    environment = {**os.environ, **environ}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        process.communicate()


def test_the_types_in_the_work_tree_are_not_stale(tmp_path: Path) -> None:
    """They are made, and not committed; where they were made, they are those of the document of today."""
    document = FOLDER / "openapi.json"
    assert (
        subprocess.run(["git", "ls-files", document, FOLDER / "src/schema.ts"], cwd=ROOT, capture_output=True).stdout
        == b""
    )
    if (FOLDER / "src/schema.ts").exists():
        today = run([sys.executable, str(ROOT / "scripts/openapi_document.py")], ROOT)
        assert document.read_text() == today, "run scripts/build-typescript"
