"""Memory of the one process: idle, and after many requests of every kind."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare import Comparison
from benchmarks.load import LAPS, Target, change, load, write_targets
from benchmarks.people import USERS, create_users
from benchmarks.plan import Plan
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, baseline, service

SETTLE_SECONDS = 3.0
SLICE_SECONDS = 2


def memory_mib(pid: int) -> dict[str, float]:
    """`rss`, `pss` (a shared page divided by its users), `uss` (the pages of this process alone) and `anonymous`, which
    alone does not move with other processes: a library's page is its own once no other process has it mapped.
    """
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, kib = line.split()[:2]
        sizes[name.rstrip(":")] = int(kib) / 1024
    own = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return {"rss": sizes["Rss"], "pss": sizes["Pss"], "uss": own, "anonymous": sizes["Anonymous"]}


def settled(server: Server) -> dict[str, float]:
    """The memory once what starts in the background has come to rest."""
    time.sleep(SETTLE_SECONDS)
    return memory_mib(server.pid)


def mixed_targets(bench: Bench, users: Mapping[str, Any]) -> Path:
    """Cached and uncached reads, a revalidation, a list, a search and a change, of which reads are most."""
    lines = []
    for lap in LAPS:
        for number, (user_id, user) in enumerate(users.items()):
            path = f"{USERS}/{user_id}"
            lines += [Target(path), Target(path, headers={"If-None-Match": '"1"'})] * 4
            lines.append(Target(path, headers={"Cache-Control": "no-cache"}))
            if number % 10 == 0:
                lines.append(Target(f"{USERS}?limit=10"))
                lines.append(Target(f"{USERS}?q={user['given_name']}%20{user['family_name']}&limit=10"))
                lines.append(change(path, lap))
    return write_targets(bench.folder / "targets-mixed.tsv", lines)


def ask(server: Server, targets: Path, requests: int) -> int:
    """At least `requests` requests; returns how many."""
    asked = 0
    while asked < requests:
        asked += load(server, targets, seconds=SLICE_SECONDS).requests
    return asked


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with service(bench) as server:
        idle = settled(server)
        users = create_users(server, plan.hot_users, series="memory")
        first = settled(server)
        mixed = mixed_targets(bench, users)
        ask(server, mixed, plan.warm_requests)
        warm = settled(server)
        asked = ask(server, mixed, plan.grown_requests)
        loaded = settled(server)
    with baseline(bench, users) as bare:
        bare_idle = settled(bare)
    growth = loaded["anonymous"] - warm["anonymous"]
    return [
        row("memory.idle", "idle after start", bare_idle, idle, idle["rss"]),
        row("memory.first", f"after the first {2 * plan.hot_users:,} requests", bare_idle, first, first["rss"]),
        row("memory.loaded", f"after {asked:,} mixed requests", bare_idle, loaded, loaded["rss"]),
        row("memory.growth", f"growth over {asked:,} mixed requests", warm, loaded, growth),
    ]


def row(key: str, label: str, before: Mapping[str, float], after: Mapping[str, float], judged: float) -> Row:
    comparison = Comparison([before["rss"]], [after["rss"]])
    details = {"baseline_mib": dict(before), "subject_mib": dict(after)}
    return Row(key, label, "MiB", comparison, absolute=judged, details=details)
