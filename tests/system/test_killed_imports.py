"""An import goes on after a SIGKILL at any moment, and applies nothing twice."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import httpx

from support.app_fixtures import API_KEY
from support.served import Served

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


def live_and_die(served: Served, file: int, seconds: float) -> httpx.Response | None:
    """Sends a file to a service that is killed after a while, unless the answer comes first."""
    killer = threading.Timer(seconds, served.process.kill)
    killer.start()
    answer = send(served.url, file)
    killer.cancel()
    return answer


def exported(url: str) -> list[str]:
    with httpx.stream("GET", f"{url}/api/v1/users/export", headers={"X-API-Key": API_KEY}, timeout=120) as answer:
        return [json.loads(line)["external_id"] for line in answer.iter_lines()]


def test_an_import_survives_fifty_kills(database_url: str, tmp_path: Path) -> None:
    chance = random.Random(2024)  # the moments are the machine's anyway
    kills, files = 0, count()
    file, sent = next(files), 0
    while kills < KILLS:
        (folder := tmp_path / str(kills + sent)).mkdir(exist_ok=True)
        served = Served(database_url, folder)
        try:
            served.wait_until_ready()
            while True:
                answer = live_and_die(served, file, chance.uniform(0.01, LONGEST_LIFE_SECONDS))
                if answer is None or answer.status_code != 202:
                    break
                assert (answer.json()["created"], answer.json()["failed"]) == (USERS, 0)
                file, sent = next(files), sent + 1
        finally:
            served.process.kill()
            served.process.wait()
        kills += 1
    served = Served(database_url, tmp_path)
    try:
        served.wait_until_ready()
        last = send(served.url, file)
        assert last is not None
        assert (last.status_code, last.json()["created"], last.json()["failed"]) == (202, USERS, 0)
        everybody = exported(served.url)
    finally:
        served.stop()
    expected = {f"{number}/{user}" for number in range(file + 1) for user in range(USERS)}
    assert len(everybody) == len(set(everybody)) == len(expected)
    assert set(everybody) == expected
