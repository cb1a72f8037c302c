"""The metrics of a process, in plain dictionaries: counting costs a fraction of a microsecond and imports nothing.

web/prometheus.py passes them to the Prometheus client when they are scraped.
"""

from bisect import bisect_left
from typing import Final

# 1 s is an edge because an alert uses it.
REQUEST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# A batch of 1,000 takes a second on a busy database; one that takes more than ten waited for a lock or a timeout.
BATCH_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZE_BUCKETS: Final = (0.0, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)


class Counter:
    """Monotonic counts, one for each combination of label values."""

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.help_text, self.labels = name, help_text, labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, by: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + by

    def begin(self, *labels: str) -> dict[tuple[str, ...], float]:
        """The counts, in which these labels exist: frequent events are added to them directly, which is fastest."""
        self.values.setdefault(labels, 0.0)
        return self.values


class Distribution:
    """One series of a histogram: the count of each bucket, not accumulated, and the sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.total = 0.0


class Histogram:
    """Distributions over the same bucket edges, one for each combination of label values."""

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...], edges: tuple[float, ...]) -> None:
        self.name, self.help_text, self.labels, self.edges = name, help_text, labels, edges
        self.series: dict[tuple[str, ...], Distribution] = {}

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = Distribution(len(self.edges))
        series.counts[bisect_left(self.edges, value)] += 1
        series.total += value

    def merge(self, labels: tuple[str, ...], other: Distribution) -> None:
        """Adds the counts of another series over the same edges."""
        series = self.series.setdefault(labels, Distribution(len(self.edges)))
        series.counts = [own + added for own, added in zip(series.counts, other.counts, strict=True)]
        series.total += other.total


class Requests:
    """Rate, errors and duration of the requests in one dictionary: one lookup per request serves all three."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.series: dict[tuple[str, str, int], Distribution] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        try:
            series = self.series[key]
        except KeyError:
            series = self.series[key] = Distribution(len(REQUEST_BUCKETS))
        series.counts[bisect_left(REQUEST_BUCKETS, seconds)] += 1
        series.total += seconds

    @property
    def families(self) -> "tuple[Counter, Histogram]":
        """The counts by status, and the durations over all statuses."""
        counts = Counter("http_requests", "Responses, by route template.", ("method", "route", "status"))
        durations = Histogram(
            "http_request_duration_seconds",
            "Time from the request's head to the end of the response.",
            ("method", "route"),
            REQUEST_BUCKETS,
        )
        for (method, route, status), series in list(self.series.items()):
            counts.add(method, route, str(status), by=sum(series.counts))
            durations.merge((method, route), series)
        return counts, durations


class Metrics:
    """Every metric of one process."""

    def __init__(self) -> None:
        self.requests = Requests()
        self.cache_hits = Counter("user_cache_hits", "Reads of a user that the cache served.", ("tier",))
        self.cache_misses = Counter("user_cache_misses", "Reads of a user that the cache could not serve.", ("tier",))
        self.cache_errors = Counter(
            "user_cache_errors", "Cache operations that failed or took too long.", ("operation",)
        )
        self.shed = Counter("user_shed", "Requests refused because too many were in flight; not in http_requests.")
        self.rate_limited = Counter("user_rate_limited", "Requests refused by a rate limit.", ("kind",))
        self.rate_limit_errors = Counter("user_rate_limit_errors", "Failed calls of Redis for a rate limit.")
        self.database_errors = Counter("user_database_errors", "Database operations that failed, by kind.", ("kind",))
        self.replica_fallbacks = Counter(
            "user_replica_fallbacks", "Lists and exports read from the primary because the replica was unavailable."
        )
        self.secrets_reload = Counter(
            "user_secrets_reload", "Reloads of changed secrets while the service ran.", ("outcome",)
        )
        self.events_published = Counter(
            "user_events_published", "Attempts to publish a change from the outbox.", ("outcome",)
        )
        self.events_received = Counter("user_events_received", "CloudEvents received.", ("type", "outcome"))
        self.loop_lag = Histogram(
            "user_service_event_loop_lag_seconds", "How late the event loop ran a timer.", (), LAG_BUCKETS
        )
        self.batches = Counter(
            "user_batch_operations",
            "Batches, by operation and outcome: succeeded, partial, failed or error.",
            ("operation", "status"),
        )
        self.batch_seconds = Histogram(
            "user_batch_operation_duration_seconds", "Duration of a batch without HTTP.", ("operation",), BATCH_BUCKETS
        )
        self.batch_size = Histogram("user_batch_size", "Items per batch.", ("operation",), SIZE_BUCKETS)

    @property
    def families(self) -> list[Counter | Histogram]:
        own = [family for family in vars(self).values() if isinstance(family, Counter | Histogram)]
        return [*self.requests.families, *own]
