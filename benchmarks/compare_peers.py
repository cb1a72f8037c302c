"""This service beside what else could keep users, in one run: `python -m benchmarks.compare_peers`.

Installs the peer with pip into a temporary environment. Both have 1,000 users in the same PostgreSQL, 32 connections
and one worker, and check a token or key at each request.
"""

import json
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.load import Target, load, write_targets
from benchmarks.operations import (
    CREATED_PER_SECOND,
    FOUND_AT_ONCE,
    JSON_BODY,
    People,
    batch_finds,
    finds,
    pages,
    post,
)
from benchmarks.people import USERS, create_users
from benchmarks.processes import free_port, running, wait_until_listening
from benchmarks.report import Row, table
from benchmarks.servers import Bench, Server, open_bench, python_env, service

PEER = Path(__file__).with_name("peers") / "fastapi_users_app.py"
PACKAGES = ("fastapi-users[sqlalchemy]", "asyncpg", "uvicorn[standard]")
COUNT = 1_000
ROUNDS = 5
SECONDS = 2
# More changes of each user than a load has time for: a repeated one would change nothing.
TURNS = range(12)
# The last row changes the users that the others read.
ROWS = {
    "fresh": "GET by id from PostgreSQL",
    "cached": "GET by id; the peer has no cache",
    "find": "find by e-mail",
    "page": "page of 50",
    "batch": f"find of {FOUND_AT_ONCE} e-mails",
    "create": "create; the peer keeps no log, checks no e-mail before, and encrypts nothing",
    "change": "change of the e-mail",
}


def environment(folder: Path) -> Path:
    """A Python that has the peer."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    ran = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise BenchmarkError(f"pip could not install {', '.join(PACKAGES)}: {ran.stderr[-1_000:]}")
    return python


def numbers() -> Iterator[int]:
    """More than a second's worth of new users for each load."""
    return iter(range(CREATED_PER_SECOND * SECONDS))


def peer_targets(made: Mapping[str, Any], lap: int) -> dict[str, Iterable[Target]]:
    """The requests of each row to the peer. What a lap writes, no other lap writes."""
    headers = {"Authorization": f"Bearer {made['token']}"}
    emails = [f"user{number}@example.org" for number in range(COUNT)]
    batches = [emails[start : start + FOUND_AT_ONCE] for start in range(0, COUNT, FOUND_AT_ONCE)]

    def send(method: str, path: str, body: object) -> Target:
        return Target(path, method=method, headers=JSON_BODY | headers, body=json.dumps(body, separators=(",", ":")))

    reads = [Target(f"/users/{user_id}", headers=headers) for user_id in made["ids"]]
    return {
        "fresh": reads,
        "cached": reads,
        "find": (Target(f"/find?email={email}", headers=headers) for email in emails),
        "page": (Target("/page?limit=50", headers=headers) for _ in emails),
        "batch": (send("POST", "/find", {"emails": batch}) for batch in batches),
        "create": (send("POST", "/new", {"email": f"new{lap}-{number}@example.org"}) for number in numbers()),
        "change": (
            send("PATCH", f"/users/{user_id}", {"email": f"changed{lap}-{turn}-{user_id}@example.org"})
            for turn in TURNS
            for user_id in made["ids"]
        ),
    }


def own_targets(users: People, lap: int) -> dict[str, Iterable[Target]]:
    """The same requests to this service."""
    fresh = {"Cache-Control": "no-cache"}
    return {
        "fresh": (Target(f"{USERS}/{user_id}", headers=fresh) for user_id in users),
        "cached": (Target(f"{USERS}/{user_id}") for user_id in users),
        "find": finds(users, "email"),
        "page": pages(users),
        "batch": batch_finds(users),
        "create": (post(USERS, {"email": f"new{lap}-{number}@example.org"}) for number in numbers()),
        "change": (
            Target(
                f"{USERS}/{user_id}",
                method="PATCH",
                headers={"Content-Type": "application/merge-patch+json"},
                body=json.dumps({"email": f"changed{lap}-{turn}-{user_id}@example.org"}),
            )
            for turn in TURNS
            for user_id in users
        ),
    }


def measure(bench: Bench) -> list[Row]:
    python, port, file = environment(bench.folder / "peer"), free_port(), bench.folder / "peer.json"
    command = [str(python), str(PEER), str(port), bench.database_url, str(COUNT), str(file)]
    with running(command, env=python_env() | {"PYTHONPATH": ""}, log=bench.log("peer")) as process:
        wait_until_listening(process, port)
        peer, made = Server(port, process.pid), json.loads(file.read_text())
        with service(bench) as server:
            users = create_users(server, COUNT, series="peer")
            sides = {"theirs": (peer, partial(peer_targets, made)), "ours": (server, partial(own_targets, users))}
            laps = count()

            def ask(side: str, key: str) -> float:
                asked, targets = sides[side]
                file = write_targets(bench.folder / f"targets-{side}-{key}.tsv", targets(next(laps))[key])
                return load(asked, file, seconds=SECONDS).per_second

            for side in sides:
                ask(side, "fresh")
            time.sleep(1)
            rows = []
            for key, label in ROWS.items():
                seen = alternate(ROUNDS, baseline=partial(ask, "theirs", key), subject=partial(ask, "ours", key))
                rows.append(Row(f"peer.{key}", f"{label} (baseline: fastapi-users)", "req/s", Comparison(*seen)))
    return rows


def main() -> int:
    try:
        with open_bench([str(Path(sys.executable).with_name("user-service"))]) as bench:
            print(table(measure(bench)))
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
