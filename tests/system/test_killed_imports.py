"""An import goes on after a SIGKILL at any moment, and applies nothing twice."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import httpx

from support.process import ServiceProcess, serving
from support.settings import API_KEY
from support.waiting import wait_until

KILLS = 50
USERS = 20_000
LONGEST_LIFE_SECONDS = 0.6
PIECE_LINES = 250


def lines(file: int) -> list[bytes]:
    return [
        json.dumps({"email": f"f{file}.{number}@example.org", "external_id": f"{file}/{number}"}).encode() + b"\n"
        for number in range(USERS)
    ]


def send(url: str, file: int) -> httpx.Response | None:
    """The answer to the whole file; None when the service was gone first."""
    content = lines(file)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), PIECE_LINES):
            yield b"".join(content[start : start + PIECE_LINES])

    headers = {"X-API-Key": API_KEY, "Content-Type": "application/x-ndjson", "Idempotency-Key": f"file-{file}"}
    with suppress(httpx.TransportError):
        return httpx.post(f"{url}/api/v1/users/imports", content=pieces(), headers=headers, timeout=120)
    return None


def live_and_die(service: ServiceProcess, file: int, seconds: float) -> httpx.Response | None:
    """Sends a file to a service that is killed after a while, unless the answer comes first."""
    url = service.url
    killer = threading.Timer(seconds, service.process.kill)
    killer.start()
    response = send(url, file)
    killer.cancel()
    return response


def wait_until_ready(service: ServiceProcess) -> None:
    with service.client() as client:
        wait_until(lambda: client.get("/api/health/ready").status_code == 200, "the service is not ready")


def exported(url: str) -> list[str]:
    with httpx.stream("GET", f"{url}/api/v1/users/export", headers={"X-API-Key": API_KEY}, timeout=120) as response:
        return [json.loads(line)["external_id"] for line in response.iter_lines()]


def test_an_import_survives_fifty_kills(database_url: str, tmp_path: Path) -> None:
    chance = random.Random(2024)  # the moments are the machine's anyway
    kills, files = 0, count()
    file = next(files)
    while kills < KILLS:
        with serving(tmp_path, DATABASE_URL=database_url) as service:
            wait_until_ready(service)
            while True:
                response = live_and_die(service, file, chance.uniform(0.01, LONGEST_LIFE_SECONDS))
                if response is None or response.status_code != 202:
                    break
                assert (response.json()["created"], response.json()["failed"]) == (USERS, 0)
                file = next(files)
            service.process.kill()
        kills += 1
    with serving(tmp_path, DATABASE_URL=database_url) as service:
        last = send(service.url, file)
        assert last is not None
        assert (last.status_code, last.json()["created"], last.json()["failed"]) == (202, USERS, 0)
        imported = exported(service.url)
    expected = {f"{number}/{user}" for number in range(file + 1) for user in range(USERS)}
    assert len(imported) == len(set(imported)) == len(expected)
    assert set(imported) == expected
