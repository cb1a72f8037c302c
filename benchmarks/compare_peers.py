"""This service beside what else could keep users, in one run: `python -m benchmarks.compare_peers`.

Installs the peer with pip into a temporary environment. Both read 1,000 users by id from the same PostgreSQL, over 32
connections, one worker each.
"""

import json
import subprocess
import sys
import time
import venv
from pathlib import Path

from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.load import Target, load, write_targets
from benchmarks.people import USERS, create_users
from benchmarks.processes import free_port, running, wait_until_listening
from benchmarks.report import Row, table
from benchmarks.servers import Bench, Server, open_bench, python_env, service

PEER = Path(__file__).with_name("peers") / "fastapi_users_app.py"
PACKAGES = ("fastapi-users[sqlalchemy]", "asyncpg", "uvicorn[standard]")
COUNT = 1_000
ROUNDS = 7
SECONDS = 2


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


def measure(bench: Bench) -> list[Row]:
    python, port, file = environment(bench.folder / "peer"), free_port(), bench.folder / "peer.json"
    command = [str(python), str(PEER), str(port), bench.database_url, str(COUNT), str(file)]
    with running(command, env=python_env() | {"PYTHONPATH": ""}, log=bench.log("peer")) as process:
        wait_until_listening(process, port)
        peer, made = Server(port, process.pid), json.loads(file.read_text())
        theirs = write_targets(
            bench.folder / "targets-peer.tsv",
            [Target(f"/users/{one}", headers={"Authorization": f"Bearer {made['token']}"}) for one in made["ids"]],
        )
        with service(bench) as server:
            ids = create_users(server, COUNT, series="peer")
            fresh = write_targets(
                bench.folder / "targets-ours-fresh.tsv",
                [Target(f"{USERS}/{one}", headers={"Cache-Control": "no-cache"}) for one in ids],
            )
            cached = write_targets(bench.folder / "targets-ours.tsv", [Target(f"{USERS}/{one}") for one in ids])
            for asked, who in ((theirs, peer), (fresh, server), (cached, server)):
                load(who, asked, seconds=SECONDS)
            time.sleep(1)
            rows = []
            for key, label, asked in (
                ("peer.fresh", "GET by id from PostgreSQL (baseline: fastapi-users)", fresh),
                ("peer.cached", "GET by id, cached (baseline: fastapi-users, which has no cache)", cached),
            ):
                seen = alternate(
                    ROUNDS,
                    baseline=lambda: load(peer, theirs, seconds=SECONDS).per_second,
                    subject=lambda asked=asked: load(server, asked, seconds=SECONDS).per_second,  # type: ignore[misc]
                )
                rows.append(Row(key, label, "req/s", Comparison(*seen)))
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
