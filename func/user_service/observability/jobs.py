"""What this process is working on and has lately finished: batches and imports, as the status page shows them."""

from collections import deque
from datetime import UTC, datetime
from typing import Final

JOBS_KEPT: Final = 50


class Job:
    """One batch or import. `total` is None where the number of items is not known before the end."""

    def __init__(self, kind: str, operation: str, total: int | None) -> None:
        self.kind, self.operation, self.total = kind, operation, total
        self.done = 0
        self.failed = 0
        self.state = "running"
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None

    def advance(self, *, done: int, failed: int = 0) -> None:
        """Adds items that are dealt with, and how many of those failed."""
        self.done += done
        self.failed += failed

    def end(self, state: str) -> None:
        """`state`: how it ended, as succeeded, partial or failed."""
        self.state = state
        self.total = self.done if self.total is None else self.total
        self.ended_at = datetime.now(UTC)


class JobLog:
    """The last jobs, the newest first."""

    def __init__(self) -> None:
        self.kept: deque[Job] = deque(maxlen=JOBS_KEPT)

    def begin(self, kind: str, operation: str, *, total: int | None) -> Job:
        job = Job(kind, operation, total)
        self.kept.appendleft(job)
        return job

    @property
    def jobs(self) -> list[Job]:
        return list(self.kept)
