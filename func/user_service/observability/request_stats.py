"""The last minutes of this process: how fast requests came and how long they took, from snapshots of the counts."""

from asyncio import TimerHandle, get_running_loop
from collections import deque
from itertools import pairwise
from time import monotonic
from typing import Final, NamedTuple

from user_service.observability.metrics import REQUEST_BUCKETS, Requests

STEP_SECONDS: Final = 5.0
STEPS_KEPT: Final = 60
STEPS_A_MINUTE: Final = 12
SERVER_ERROR: Final = 500


class Snapshot(NamedTuple):
    """The counts so far: requests, those answered with 5xx, and requests by bucket of duration, not accumulated."""

    at: float
    total: int
    errors: int
    buckets: list[int]


class Pace(NamedTuple):
    """What happened between two snapshots. Quantiles are None where nothing was answered."""

    seconds: float
    per_second: float
    error_ratio: float
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None


class RequestStats:
    """A snapshot every five seconds, for five minutes."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.snapshots: deque[Snapshot] = deque([snapshot_of(requests)], maxlen=STEPS_KEPT + 1)
        self.timer: TimerHandle | None = None

    def start(self) -> None:
        """Begins on the running loop."""
        self.timer = get_running_loop().call_later(STEP_SECONDS, self.step)

    def step(self) -> None:
        self.snapshots.append(snapshot_of(self.requests))
        self.start()

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def last_minute(self) -> Pace:
        """From a minute ago, or from the start, until now."""
        first = self.snapshots[max(0, len(self.snapshots) - STEPS_A_MINUTE)]
        return pace_between(first, snapshot_of(self.requests))

    @property
    def history(self) -> list[Pace]:
        """Each step, the oldest first."""
        return [pace_between(earlier, later) for earlier, later in pairwise(self.snapshots)]


def snapshot_of(requests: Requests) -> Snapshot:
    total, errors, buckets = 0, 0, [0] * (len(REQUEST_BUCKETS) + 1)
    for (_, _, status), series in list(requests.series.items()):
        answered = sum(series.counts)
        total += answered
        errors += answered if status >= SERVER_ERROR else 0
        buckets = [so_far + count for so_far, count in zip(buckets, series.counts, strict=True)]
    return Snapshot(monotonic(), total, errors, buckets)


def pace_between(earlier: Snapshot, later: Snapshot) -> Pace:
    seconds = max(later.at - earlier.at, 0.001)
    answered = later.total - earlier.total
    buckets = [after - before for before, after in zip(earlier.buckets, later.buckets, strict=True)]
    return Pace(
        seconds,
        answered / seconds,
        (later.errors - earlier.errors) / answered if answered else 0.0,
        *(quantile(buckets, share) for share in (0.5, 0.95, 0.99)),
    )


def quantile(buckets: list[int], share: float) -> float | None:
    """The duration below which this share of the requests lies, even within its bucket; None for no requests."""
    rank, so_far = share * sum(buckets), 0
    if not rank:
        return None
    for place, count in enumerate(buckets[:-1]):
        if so_far + count >= rank:
            lower = REQUEST_BUCKETS[place - 1] if place else 0.0
            return lower + (REQUEST_BUCKETS[place] - lower) * (rank - so_far) / count
        so_far += count
    return REQUEST_BUCKETS[-1]
