"""Batches of two checkouts of this repository in turn: `python -m benchmarks.compare_commits BEFORE AFTER`.

Each checkout has a `.venv` of its own: `git worktree add ../before COMMIT`, and there `scripts/test --co -q`. Each side
has its own PostgreSQL, so that the processor time of both is known.
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.batch import SIZE, Cost, bodies, send_all, send_measured
from benchmarks.compare import Comparison, alternate
from benchmarks.people import person
from benchmarks.report import Row, table
from benchmarks.servers import Bench, Server, open_bench, service

ROUNDS = 12
BATCHES = 12
FOUND_SERIES = "found"


class Side:
    """The service of one checkout."""

    def __init__(self, checkout: Path, stack: ExitStack) -> None:
        folder = checkout.resolve()
        # Before the code of this checkout, which the environment of benchmarks names.
        command = ["/usr/bin/env", f"PYTHONPATH={folder / 'func'}", str(folder / ".venv" / "bin" / "user-service")]
        self.bench: Bench = stack.enter_context(open_bench(command))
        self.server: Server = stack.enter_context(service(self.bench))
        people = [person(number, series=FOUND_SERIES) for number in range(SIZE)]
        self.find_request = json.dumps({"emails": [user["email"] for user in people]}).encode()
        send_all(self.server, "create", [json.dumps({"items": [{"data": user} for user in people]}).encode()])
        self.create()

    def create(self) -> Cost:
        return send_measured(self.bench, self.server, "create", bodies(BATCHES))

    def find(self) -> Cost:
        return send_measured(self.bench, self.server, "find", [self.find_request] * BATCHES)


def measure(before: Side, after: Side) -> list[Row]:
    rows = []
    for verb, baseline, subject in (("created", before.create, after.create), ("found", before.find, after.find)):
        theirs, ours = alternate(ROUNDS, baseline=baseline, subject=subject)
        for name, unit in (("per_second", "users/s"), ("worker_us", "us"), ("postgres_us", "us")):
            compared = Comparison([getattr(one, name) for one in theirs], [getattr(one, name) for one in ours])
            rows.append(Row(f"commits.{verb}.{name}", f"{verb} in batches of {SIZE:,}: {name}", unit, compared))
    return rows


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    with ExitStack() as stack:
        before, after = (Side(Path(checkout), stack) for checkout in sys.argv[1:])
        print(table(measure(before, after)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
