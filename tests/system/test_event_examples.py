"""The programs of docs/event-examples.md receive events and send a batch, in Python and in Node.js."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.api import USERS, create_user
from support.documents import ROOT, read_blocks
from support.ports import free_port
from support.process import serving
from support.settings import API_KEY
from support.waiting import PATIENCE_SECONDS, wait_until
from user_service.events.signatures import make_signature_headers
from user_service.values.signing_secrets import parse_signing_secrets

SECRET = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
NEEDS_NODE = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed; .ci/run installs it")
LANGUAGES = [pytest.param("python", id="python"), pytest.param("js", id="node", marks=NEEDS_NODE)]
RUNNERS = {"python": [sys.executable, "-c"], "js": ["node", "--input-type=module", "--eval"]}
BLOCKS = read_blocks(ROOT / "docs/event-examples.md")


def program(language: str, *, sends: bool) -> list[str]:
    """The command that runs the first program of a language, which receives, or the second one, which sends."""
    receiver, sender = (block.text for block in BLOCKS if block.language == language)
    return [*RUNNERS[language], sender if sends else receiver]


class Receiver:
    def __init__(self, url: str, output: Path) -> None:
        self.url = url
        self.output = output

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.lines()) >= count, "the events to be received")

    def post(self, headers: dict[str, str], body: bytes) -> int:
        return httpx.post(self.url, content=body, headers=headers).status_code


@contextmanager
def receiving(language: str, folder: Path) -> Iterator[Receiver]:
    port, output = free_port(), folder / "received"
    with output.open("wb") as file:
        process = subprocess.Popen(
            program(language, sends=False),
            env={"PATH": os.environ["PATH"], "PORT": str(port), "SECRET": SECRET},
            stdin=subprocess.DEVNULL,
            stdout=file,
        )
        try:
            receiver = Receiver(f"http://127.0.0.1:{port}", output)
            wait_until(lambda: answers(receiver.url), "the receiver to answer")
            yield receiver
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.post(url).status_code == 401
    except httpx.TransportError:
        return False


def sign(body: bytes, *, seconds_ago: int = 0, secret: str = SECRET) -> dict[str, str]:
    timestamp = int(time.time()) - seconds_ago
    headers = make_signature_headers("e1", body, parse_signing_secrets(secret), timestamp=timestamp)
    return {"ce-type": "org.userservice.user.updated.v1", **headers}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_receiver_takes_each_version_once_in_order_and_nothing_that_is_not_signed(
    language: str, database_url: str, tmp_path: Path
) -> None:
    with (
        receiving(language, tmp_path) as receiver,
        serving(tmp_path, DATABASE_URL=database_url, EVENT_SINK_URL=receiver.url, EVENT_SINK_SECRET=SECRET) as service,
        service.client() as client,
    ):
        user_id = create_user(client)["id"]
        assert client.patch(f"{USERS}/{user_id}", json={"locale": "fr"}).status_code == 200
        assert client.delete(f"{USERS}/{user_id}").status_code == 204
        receiver.wait_for(3)

        expected = [
            f"org.userservice.user.{kind}.v1 {user_id} {version} {status}"
            for version, (kind, status) in enumerate(
                (("created", "active"), ("updated", "active"), ("deleted", "deleted")), start=1
            )
        ]
        assert receiver.lines() == expected
        older = b'{"id": "%s", "version": 2, "status": "active"}' % user_id.encode()
        newer = older.replace(b"2,", b"4,")
        assert receiver.post(sign(older), older) == 204
        for headers in (
            {},
            sign(newer, seconds_ago=400),
            sign(older),
            sign(newer, secret=SECRET.replace("AQID", "AgID")),
            {**sign(newer), "webhook-id": "e2"},
            {**sign(newer), "webhook-timestamp": "now"},
            {**sign(newer), "webhook-signature": "v1, v2,x v1,"},
        ):
            assert receiver.post(headers, newer) == 401
        assert receiver.lines() == expected
        both = f"{SECRET.replace('AQID', 'AgID')},{SECRET}"
        assert receiver.post(sign(newer, secret=both), newer) == 204
        receiver.wait_for(4)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sender_waits_for_the_service_and_has_one_effect(language: str, database_url: str, tmp_path: Path) -> None:
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "URL": f"http://127.0.0.1:{port}",
        "KEY": API_KEY,
        "EVENT_ID": "users.csv-1",
    }
    waiting = subprocess.Popen(
        program(language, sends=True), env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert waiting.stdout is not None
        # The first attempt finds no service.
        assert waiting.stdout.readline()
        with serving(tmp_path, DATABASE_URL=database_url, PORT=str(port)) as service, service.client() as client:
            first = waiting.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()[-2:]
            again = subprocess.run(
                program(language, sends=True), env=environ, capture_output=True, text=True, check=True
            )
            users = client.get(USERS).json()["items"]
            refused = subprocess.run(
                program(language, sends=True),
                env={**environ, "KEY": "wrong"},
                capture_output=True,
                text=True,
                check=False,
            )
    finally:
        waiting.kill()
        waiting.wait()

    [user] = users
    assert first[0] == f"row-1 created {user['id']}"
    assert first[1].startswith("row-2 failed ")
    assert again.stdout.splitlines() == first
    assert (refused.returncode, refused.stderr[:4]) == (1, "401:")
