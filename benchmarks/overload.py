"""Five times as many requests at once as the service takes in: what is answered, in what memory, and what after."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.client import Client
from benchmarks.compare import Comparison
from benchmarks.errors import BenchmarkError
from benchmarks.load import LAPS, Target, change, run_wrk, write_targets
from benchmarks.memory import memory_mib, settled
from benchmarks.people import USERS, create_users
from benchmarks.plan import Plan
from benchmarks.report import Row
from benchmarks.servers import API_KEY, Bench, Server, service

# The default of MAX_IN_FLIGHT, and where the peak is looked for below it.
IN_FLIGHT = 256
BELOW = (32, 128, 240)
TIMES = 5
LONGEST_RECOVERY_SECONDS = 30.0


def targets(bench: Bench, users: Mapping[str, Any]) -> Path:
    """Reads that pass by the cache, and a change for every four of them: all of it waits for PostgreSQL."""
    lines = []
    for lap in LAPS:
        for user_id in users:
            path = f"{USERS}/{user_id}"
            lines += [Target(path, headers={"Cache-Control": "no-cache"})] * 4
            lines.append(change(path, lap))
    return write_targets(bench.folder / "targets-overload.tsv", lines)


def goodput(seen: Mapping[str, float]) -> float:
    return (seen["requests"] - seen["refused"]) / seen["seconds"]


def recovery_seconds(server: Server, user_id: str) -> float:
    """How long after the load a request is answered at once again: 20 in a row, each within a tenth of a second."""
    began = time.monotonic()
    in_a_row = 0
    while in_a_row < 20:
        asked = time.monotonic()
        if asked - began > LONGEST_RECOVERY_SECONDS:
            raise BenchmarkError(f"no recovery within {LONGEST_RECOVERY_SECONDS:g} s")
        try:
            with Client(server.port, {"X-API-Key": API_KEY}) as client:
                client.get(f"{USERS}/{user_id}", Cache_Control="no-cache")
        except (BenchmarkError, OSError):
            in_a_row = 0
            continue
        in_a_row = in_a_row + 1 if time.monotonic() - asked < 0.1 else 0
    return time.monotonic() - began


def measure(bench: Bench, plan: Plan) -> list[Row]:
    seconds = plan.load_seconds * 4
    with service(bench) as server:
        users = create_users(server, plan.hot_users, series="overload")
        asked = targets(bench, users)
        below = {number: run_wrk(server, asked, seconds=seconds, connections=number) for number in BELOW}
        peak = max(map(goodput, below.values()))
        before = settled(server)["rss"]
        over = run_wrk(server, asked, seconds=seconds * 2, connections=IN_FLIGHT * TIMES)
        recovered = recovery_seconds(server, next(iter(users)))
        after = memory_mib(server.pid)["rss"]
    refused = over["refused"] / over["requests"]
    label = f"{IN_FLIGHT * TIMES:,} connections beside the peak of {max(below, key=lambda n: goodput(below[n]))}"
    details = {"below": below, "over": over, "refused_share": refused}
    return [
        Row("overload.goodput", label, "req/s", Comparison([peak], [goodput(over)]), details=details),
        Row("overload.recovery", "  recovery", "s", Comparison([recovered], [recovered]), absolute=recovered),
        Row("overload.memory", "  memory after it", "MiB", Comparison([before], [after]), absolute=after),
    ]
