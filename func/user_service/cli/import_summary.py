"""The outcome of an import, and how it is printed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

SHOWN_FAILURES: Final = 20


@dataclass(slots=True)
class ImportSummary:
    """The records by outcome, and the first failures, each with `record`, `line`, `field`, `code` and `detail`.

    `done_before` is when the same import was completed, if this request did not do it.
    """

    counts: Mapping[str, int]
    failures: list[dict[str, Any]] = field(default_factory=list)
    import_id: str | None = None
    done_before: str | None = None


def print_summary(summary: ImportSummary, *, dry_run: bool) -> None:
    """Prints the counts, a table of the first failures, and the number of failures of each kind."""
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.counts.items() if count) or "no records"
    print(f"{'Would be: ' if dry_run else ''}{counts}.")
    if summary.done_before is not None:
        print(f"The import was done before, on {summary.done_before}. `--again` applies it anew.")
    if not summary.failures:
        return
    print("\nrecord      line        code                    field               what is wrong")
    for failure in sorted(summary.failures, key=itemgetter("record"))[:SHOWN_FAILURES]:
        place = f"{failure['record']:<11} {failure['line'] or '':<11}"
        print(f"{place} {failure['code']:<23} {failure['field'] or '':<19} {failure['detail']}")
    if len(summary.failures) > SHOWN_FAILURES:
        kinds = Counter(failure["code"] for failure in summary.failures)
        print("and more: " + ", ".join(f"{count:,} x {code}" for code, count in kinds.most_common()))
    if summary.import_id is not None:
        print(f"\nAll failures: GET /api/v1/users/imports/{summary.import_id}/errors")
