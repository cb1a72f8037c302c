"""Rate, errors and duration of the requests of the last minutes, from snapshots of the metrics."""

from asyncio import TimerHandle, get_running_loop
from collections import deque
from itertools import pairwise
from time import monotonic
from typing import Final, NamedTuple

from user_service.errors import SERVER_ERROR
from user_service.observability.metrics import REQUEST_BUCKETS, Requests

STEP_SECONDS: Final = 5.0
MAX_STEPS: Final = 60
STEPS_PER_MINUTE: Final = 12


class Snapshot(NamedTuple):
    """Counts since the start: requests, responses with 5xx, and requests by bucket of duration, not accumulated."""

    at: float
    total: int
    errors: int
    buckets: list[int]


class Pace(NamedTuple):
    """The requests between two snapshots. Quantiles are None when there were none."""

    seconds: float
    per_second: float
    error_ratio: float
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None


class RequestStats:
    """Snapshots of five minutes, one every five seconds."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.snapshots: deque[Snapshot] = deque([take_snapshot(requests)], maxlen=MAX_STEPS + 1)
        self.timer: TimerHandle | None = None

    def start(self) -> None:
        """Begins to take snapshots on the running loop."""
        self.timer = get_running_loop().call_later(STEP_SECONDS, self.step)

    def step(self) -> None:
        self.snapshots.append(take_snapshot(self.requests))
        self.start()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def last_minute(self) -> Pace:
        """From a minute ago, or from the start, until now."""
        first = self.snapshots[max(0, len(self.snapshots) - STEPS_PER_MINUTE)]
        return compare(first, take_snapshot(self.requests))

    @property
    def history(self) -> list[Pace]:
        """The pace of each step, the oldest first."""
        return [compare(earlier, later) for earlier, later in pairwise(self.snapshots)]


def take_snapshot(requests: Requests) -> Snapshot:
    total, errors, buckets = 0, 0, [0] * (len(REQUEST_BUCKETS) + 1)
    for (_, _, status), series in list(requests.series.items()):
        count = sum(series.counts)
        total += count
        errors += count if status >= SERVER_ERROR else 0
        buckets = [sum(pair) for pair in zip(buckets, series.counts, strict=True)]
    return Snapshot(monotonic(), total, errors, buckets)


def compare(earlier: Snapshot, later: Snapshot) -> Pace:
    seconds = max(later.at - earlier.at, 0.001)
    requests = later.total - earlier.total
    buckets = [after - before for before, after in zip(earlier.buckets, later.buckets, strict=True)]
    return Pace(
        seconds,
        requests / seconds,
        (later.errors - earlier.errors) / requests if requests else 0.0,
        *(quantile(buckets, share) for share in (0.5, 0.95, 0.99)),
    )


def quantile(buckets: list[int], share: float) -> float | None:
    """The duration in seconds below which a share of the requests lies, interpolated in its bucket; None for none."""
    rank, so_far = share * sum(buckets), 0
    if not rank:
        return None
    for index, count in enumerate(buckets[:-1]):
        if so_far + count >= rank:
            lower = REQUEST_BUCKETS[index - 1] if index else 0.0
            return lower + (REQUEST_BUCKETS[index] - lower) * (rank - so_far) / count
        so_far += count
    return REQUEST_BUCKETS[-1]
