"""The service in a process of its own, as an operator runs it, and the load that the tests put on it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from support.app_fixtures import API_KEY, ENCRYPTION_KEY

USERS = "/api/v1/users"
# How long a test waits for what must come; far beyond what it takes.
PATIENCE_SECONDS = 60.0
ADDRESS = re.compile(r"running on (http://127\.0\.0\.1:[0-9]+)")


class Service:
    """A running `user-service serve`; its log is in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.url = self.wait_for(ADDRESS)[1]

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """The first place in the log that fits."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := pattern.search(self.log.read_text())) is None:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": API_KEY}, timeout=PATIENCE_SECONDS)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)


@contextmanager
def serving(folder: Path, database_url: str, **environ: str) -> Iterator[Service]:
    """A service over this database with JSON logs, in production's strictness, on a port of its own."""
    log = folder / f"service-{uuid4().hex[:8]}.log"
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    own = {
        "APP_ENV": "production",
        "DATABASE_URL": database_url,
        "DATA_DIR": str(folder),
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "HOST": "127.0.0.1",
        "INTERNAL_API_KEY": API_KEY,
        "PORT": "0",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "user_service.cli.main", "serve"],
            env={**kept, **own, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Service(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def make_user(client: httpx.Client, **fields: Any) -> str:
    """The path of a new user."""
    answer = client.post(USERS, json={"email": f"{uuid4().hex}@example.org", **fields})
    assert answer.status_code == 201, answer.text
    location: str = answer.headers["location"]
    return location


def send_batch_event(client: httpx.Client, **attributes: str) -> httpx.Response:
    """The answer to an event that creates one user."""
    event = {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/tests",
        "type": "org.userservice.batch.create.v1",
        "datacontenttype": "application/json",
        "data": {"items": [{"data": {"email": f"{uuid4().hex}@example.org"}}]},
        **attributes,
    }
    return client.post("/events", json=event, headers={"Content-Type": "application/cloudevents+json"})


def put_load(client: httpx.Client, *, rounds: int = 20) -> None:
    """Reads that hit and miss, a list, writes, and answers with 401, 404, 409 and 422."""
    path = make_user(client, given_name="Grace", family_name="Hopper")
    for _ in range(rounds):
        assert client.get(path).status_code == 200
        assert client.get(f"{USERS}/{uuid4()}").status_code == 404
    assert client.get(USERS, params={"q": "grace hopper"}).status_code == 200
    batch = {"items": [{"data": {"email": f"{uuid4().hex}@example.org"}}, {"data": {"email": "none"}}]}
    for _ in range(3):
        assert client.post(f"{USERS}/batch/create", json=batch).status_code == 207
    assert send_batch_event(client).status_code == 200
    assert client.patch(path, json={"given_name": "Amazing"}).status_code == 200
    assert client.post(USERS, json={"email": "not an address"}).status_code == 422
    assert client.get(USERS, headers={"X-API-Key": "wrong"}).status_code == 401
