"""`python -m benchmarks`: starts what it needs, measures, prints a table and keeps the numbers as JSON."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import (
    batch,
    cold_start,
    events,
    feed,
    imports,
    lists,
    memory,
    operations,
    outbox,
    overload,
    reads,
    report,
    scim,
    scim_sync,
)
from benchmarks.errors import BenchmarkError, list_notes
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.servers import Bench, open_bench

MEASUREMENTS: dict[str, Callable[[Bench, Plan], list[report.Row]]] = {
    "cold": cold_start.measure,
    "reads": reads.measure,
    "memory": memory.measure,
    "lists": lists.measure,
    "operations": operations.measure,
    "scim": scim.measure,
    "scim-sync": scim_sync.measure,
    "batch": batch.measure,
    "imports": imports.measure,
    "events": events.measure,
    "feed": feed.measure,
    "outbox": outbox.measure,
    "overload": overload.measure,
}
LONGEST_SECONDS = 3_600


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    names = ",".join(MEASUREMENTS)
    parser.add_argument("--only", default=names, metavar="NAMES", help=f"some of {names}")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: about a minute")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a number is outside its wide bound")
    parser.add_argument("--service", metavar="COMMAND", help="what to measure in place of user-service")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    if unknown := set(chosen.only) - set(MEASUREMENTS):
        parser.error(f"--only takes some of {names}, not {', '.join(sorted(unknown))}")
    return chosen


def end(number: int, _: FrameType | None) -> None:
    """Leaves through every `with`, so that what was started is stopped."""
    sys.exit(f"benchmarks: ended by {signal.Signals(number).name}")


def main() -> int:
    chosen = arguments()
    for name in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(name, end)
    signal.alarm(LONGEST_SECONDS)
    command = (chosen.service or str(Path(sys.executable).with_name("user-service"))).split()
    rows = []
    try:
        with open_bench(command) as bench:
            for name in chosen.only:
                print(f"measuring {name} ...", file=sys.stderr, flush=True)
                rows += MEASUREMENTS[name](bench, QUICK if chosen.quick else FULL)
    except BenchmarkError as error:
        print("\n".join([f"benchmarks: {error}", *list_notes(error)]), file=sys.stderr)
        return 2
    print(report.table(rows))
    print(f"\nkept in {report.write(rows, quick=chosen.quick)} and as Markdown beside it")
    regressed = [row.label.strip() for row in rows if row.regressed]
    if regressed and chosen.strict:
        print(f"benchmarks: outside the bound: {'; '.join(regressed)}", file=sys.stderr)
    return 1 if regressed and chosen.strict else 0


if __name__ == "__main__":
    sys.exit(main())
