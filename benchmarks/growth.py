"""How reads grow: with connections, with a second worker, with the size of a user. `python -m benchmarks.growth`.

Requests a second of `GET /users/{id}` from the cache and from PostgreSQL. Prints tables, keeps them as Markdown, and
draws them as SVG when matplotlib is there (the extra `drawing`). A second worker is a second replica: a pod has one.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load import CONNECTIONS, Target, run_wrk, write_targets
from benchmarks.people import USERS, person
from benchmarks.report import RESULTS
from benchmarks.servers import Bench, Server, open_bench, service

CONNECTIONS_TRIED = (1, 4, 16, 64, 256)
KILOBYTES_TRIED = (1, 2, 4, 8, 16)
WORKERS_TRIED = (1, 2)
DOORS: Mapping[str, Mapping[str, str]] = {"cached": {}, "from PostgreSQL": {"Cache-Control": "no-cache"}}
USERS_OF_A_SIZE = 200
# What preferences of 16 KiB have room for.
LARGEST_NOTE = 16 * 1024 - len(b'{"note":""}')

# Requests a second, by the label of a curve and the value on its axis.
Curves = dict[str, dict[int, float]]


def large_users(server: Server, kilobytes: int, *, series: str) -> list[str]:
    """Users whose JSON has about that size; what makes them large is in `preferences`."""
    ids = []
    with server.client() as client:
        for number in range(USERS_OF_A_SIZE):
            data: dict[str, Any] = person(number, series=series)
            data["preferences"] = {"note": "x" * max(0, min(kilobytes * 1024 - 600, LARGEST_NOTE))}
            ids.append(client.request("POST", USERS, expect=201, data=data).json()["id"])
    return ids


def per_second(servers: Sequence[Server], targets: Path, *, connections: int, seconds: int) -> float:
    """Requests a second of all servers together, each with its share of the connections."""
    share = max(1, connections // len(servers))
    with ThreadPoolExecutor(len(servers)) as pool:
        seen = list(
            pool.map(lambda server: run_wrk(server, targets, seconds=seconds, connections=share), servers),
        )
    return sum((one["requests"] - one["refused"]) / one["seconds"] for one in seen)


def targets(bench: Bench, ids: Sequence[str], door: str, name: str) -> Path:
    lines = [Target(f"{USERS}/{user_id}", headers=DOORS[door]) for user_id in ids]
    return write_targets(bench.folder / f"targets-growth-{name}-{door[:4]}.tsv", lines)


def by_connections(bench: Bench, seconds: int) -> Curves:
    curves: Curves = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(service(bench)) for _ in range(max(WORKERS_TRIED))]
        ids = large_users(servers[0], 1, series="connections")
        for workers in WORKERS_TRIED:
            for door in DOORS:
                asked = targets(bench, ids, door, "connections")
                curve = curves[f"{door}, {workers} worker{'s' if workers > 1 else ''}"] = {}
                for connections in CONNECTIONS_TRIED:
                    if connections >= workers:
                        curve[connections] = per_second(
                            servers[:workers], asked, connections=connections, seconds=seconds
                        )
    return curves


def by_size(bench: Bench, seconds: int) -> Curves:
    curves: Curves = {door: {} for door in DOORS}
    with service(bench) as server:
        for kilobytes in KILOBYTES_TRIED:
            ids = large_users(server, kilobytes, series=f"size{kilobytes}")
            for door in DOORS:
                asked = targets(bench, ids, door, f"{kilobytes}k")
                curves[door][kilobytes] = per_second([server], asked, connections=CONNECTIONS, seconds=seconds)
    return curves


def table(title: str, curves: Curves) -> list[str]:
    steps = sorted({step for curve in curves.values() for step in curve})
    lines = [f"| {title} | " + " | ".join(map(str, steps)) + " |", "| --- |" + " --- |" * len(steps)]
    for label, curve in curves.items():
        cells = [f"{curve[step]:,.0f}" if step in curve else "" for step in steps]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def plot(panels: Mapping[str, Curves], file: Path) -> None:
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(9, 3.2))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, curve in curves.items():
            axis.plot(list(curve), list(curve.values()), marker="o", markersize=3, linewidth=1, label=label)
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(title)
        axis.set_ylabel("requests/s")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(file)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.growth", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="for each point")
    seconds = parser.parse_args().seconds
    with open_bench([str(Path(sys.executable).with_name("user-service"))]) as bench:
        panels = {"connections": by_connections(bench, seconds), "KB of a user": by_size(bench, seconds)}
    lines = [line for title, curves in panels.items() for line in table(title, curves)]
    print("\n".join(lines))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "growth.md").write_text("\n".join(lines))
    plot(panels, RESULTS / "growth.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
