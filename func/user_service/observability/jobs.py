"""The running and recent batches and imports of this process, as the status page shows them."""

from collections import deque
from datetime import UTC, datetime
from typing import Final

MAX_JOBS: Final = 50


class Job:
    """A batch or an import. `total` is None while the number of items is unknown."""

    def __init__(self, kind: str, operation: str, total: int | None) -> None:
        self.kind, self.operation, self.total = kind, operation, total
        self.done = 0
        self.failed = 0
        self.state = "running"
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None

    def advance(self, *, done: int, failed: int = 0) -> None:
        """Adds to the number of items that are done, and to those that failed."""
        self.done += done
        self.failed += failed

    def end(self, state: str) -> None:
        """`state` is the outcome, such as succeeded, partial or failed."""
        self.state = state
        self.total = self.done if self.total is None else self.total
        self.ended_at = datetime.now(UTC)


class JobLog:
    """The last 50 jobs, the newest first."""

    def __init__(self) -> None:
        self.recent: deque[Job] = deque(maxlen=MAX_JOBS)

    def begin(self, kind: str, operation: str, *, total: int | None) -> Job:
        job = Job(kind, operation, total)
        self.recent.appendleft(job)
        return job

    @property
    def jobs(self) -> list[Job]:
        return list(self.recent)
