"""The metrics in the Prometheus text format, by its client library."""

from collections.abc import Iterator
from platform import python_version

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from user_service import __version__
from user_service.bootstrap import Resources
from user_service.cache.base import Footprint
from user_service.observability.metrics import Counter, Histogram
from user_service.postgres.connections import PoolStats, sum_pools
from user_service.security.api_keys import ApiKeys
from user_service.users.unit_of_work import UserDatabase


class ServiceCollector(Collector):
    """Reads the service's counters at each scrape."""

    def __init__(self, resources: Resources, database: UserDatabase) -> None:
        self.resources = resources
        self.database = database

    def collect(self) -> Iterator[Metric]:
        for family in self.resources.metrics.families:
            yield counter_metric(family) if isinstance(family, Counter) else histogram_metric(family)
        in_flight = self.resources.metrics.requests.in_flight
        yield GaugeMetricFamily("http_requests_in_flight", "Requests in progress.", in_flight)
        yield from api_key_gauges(self.resources.api_keys)
        yield GaugeMetricFamily(
            "user_feed_waiters",
            "Requests that wait for a change; not in http_requests_in_flight.",
            self.resources.feed_watch.waiters,
        )
        yield from pool_gauges(sum_pools([self.resources.pool.stats, *self.database.pool_stats]))
        yield from cache_families(self.resources.cache.footprint)
        backlog = self.resources.backlog
        yield GaugeMetricFamily(
            "user_outbox_pending", "Changes in the outbox that wait for the relay.", backlog.pending
        )
        yield GaugeMetricFamily(
            "user_outbox_oldest_seconds", "Age of the oldest change in the outbox.", backlog.oldest_seconds
        )
        build = GaugeMetricFamily(
            "user_service_build_info", "The running version.", labels=["version", "python", "serve"]
        )
        build.add_metric([__version__, python_version(), self.resources.settings.serve], 1)
        yield build


def api_key_gauges(api_keys: ApiKeys) -> Iterator[Metric]:
    labels = ["name", "fingerprint"]
    used = GaugeMetricFamily(
        "user_api_key_last_use_timestamp_seconds", "When this replica last accepted an API key.", labels=labels
    )
    ends = GaugeMetricFamily("user_api_key_expiry_timestamp_seconds", "When an API key expires.", labels=labels)
    for key in api_keys.all:
        for family, moment in ((used, key.last_used_at), (ends, key.expires_at)):
            if moment is not None:
                family.add_metric([key.name, key.fingerprint], moment)
    yield from (used, ends)


def pool_gauges(total: PoolStats) -> Iterator[Metric]:
    for name, help_text, value in (
        ("active", "Database connections in use.", total.active),
        ("open", "Database connections that are open, in use or not.", total.opened),
        ("limit", "Database connections that may be open.", total.limit),
        ("waiting", "Requests that wait for a database connection.", total.waiting),
    ):
        yield GaugeMetricFamily(f"user_database_connections_{name}", help_text, value)


def cache_families(footprint: Footprint) -> Iterator[Metric]:
    yield GaugeMetricFamily("user_cache_entries", "Users cached in this process.", footprint.entries)
    yield GaugeMetricFamily("user_cache_size_bytes", "Memory that the cached users take.", footprint.size_bytes)
    yield CounterMetricFamily(
        "user_cache_evictions", "Users evicted from the cache because it was full.", footprint.evictions
    )


def counter_metric(family: Counter) -> Metric:
    metric = CounterMetricFamily(family.name, family.help_text, labels=family.labels)
    for labels, value in list(family.values.items()):
        metric.add_metric(list(labels), value)
    return metric


def histogram_metric(family: Histogram) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help_text, labels=family.labels)
    for labels, series in list(family.series.items()):
        buckets, cumulative = [], 0
        for edge, count in zip((*map(str, family.edges), "+Inf"), series.counts, strict=True):
            cumulative += count
            buckets.append((edge, cumulative))
        metric.add_metric(list(labels), buckets, series.total)
    return metric


class Exposition:
    """The metrics of the service, the process and the interpreter, as text."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, resources: Resources, database: UserDatabase) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(ServiceCollector(resources, database))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)
