"""What each alert is tried on. Series are in promtool's notation, one sample a minute.

`fires`: it does at `at`. `silent`: trouble of another kind, or too little of it. `boundary`: exactly at the threshold,
where it must not fire yet; a hair below where the arithmetic has no exact threshold.
"""

from dataclasses import dataclass, field

SERVICE = 'namespace="microservices", job="user-service"'
KNATIVE = 'namespace="microservices", job="microservices/user-service", serving_knative_dev_service="user-service"'
POD = 'namespace="microservices", pod="user-service-deployment-7c9-x2x", container="user-service"'
PROXY = 'namespace="microservices", pod="user-service-deployment-7c9-x2x", container="linkerd-proxy"'
DEPLOYMENT = 'kube_deployment_spec_replicas{namespace="microservices", deployment="user-service-deployment"}'
REVISION = 'kube_deployment_spec_replicas{namespace="microservices", deployment="user-service-00007-deployment"}'
USER = 'method="GET", route="/api/v1/users/{user_id}"'
PROBE = 'method="GET", route="/api/health/ready"'
IMPORT = 'method="POST", route="/api/v1/users/imports"'

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    fires: Series
    silent: Series
    boundary: Series
    at: str = "30m"
    no_data_fires: bool = False
    more_fires: list[Series] = field(default_factory=list)
    more_silent: list[Series] = field(default_factory=list)


def requests(per_minute: float, errors_per_minute: float = 0, *, which: str = USER, of: str = SERVICE) -> Series:
    """Answers a minute, some of them with 503."""
    return {
        f'http_requests_total{{{of}, {which}, status="200"}}': f"0+{per_minute - errors_per_minute}x300",
        f'http_requests_total{{{of}, {which}, status="503"}}': f"0+{errors_per_minute}x300",
    }


def durations(per_minute: float, *, in_time: float, in_a_second: float, which: str = USER) -> Series:
    """Requests a minute, of which so many take 250 ms at most and so many a second at most."""
    counts = {"0.25": in_time, "1.0": in_a_second, "2.5": per_minute, "+Inf": per_minute}
    buckets = {
        f'http_request_duration_seconds_bucket{{{SERVICE}, {which}, le="{le}"}}': f"0+{count}x300"
        for le, count in counts.items()
    }
    return {**buckets, **requests(per_minute, which=which)}


def reads(hits: float, misses: float, *, tier: str = "memory") -> Series:
    return {
        f'user_cache_hits_total{{{SERVICE}, tier="{tier}"}}': f"0+{hits}x100",
        f'user_cache_misses_total{{{SERVICE}, tier="{tier}"}}': f"0+{misses}x100",
    }


def memory(held: str, *, container: str = POD) -> Series:
    return {
        f"container_memory_working_set_bytes{{{container}}}": f"{held}x100",
        f'kube_pod_container_resource_limits{{{POD}, resource="memory"}}': "1000x100",
        f'kube_pod_container_resource_requests{{{POD}, resource="memory"}}': "250x100",
    }


def processor(seconds_a_minute: float, *, container: str = POD) -> Series:
    return {
        f"container_cpu_usage_seconds_total{{{container}}}": f"0+{seconds_a_minute}x100",
        f'kube_pod_container_resource_limits{{{POD}, resource="cpu"}}': "1x100",
        f'kube_pod_container_resource_requests{{{POD}, resource="cpu"}}': "0.2x100",
    }


def up(values: str, *, of: str = SERVICE, container: str = "user-service") -> Series:
    return {f'up{{{of}, container="{container}", instance="10.0.0.7:3002"}}': values}


RESTARTS = f"kube_pod_container_status_restarts_total{{{POD}}}"
DATABASE = f'user_database_errors_total{{{SERVICE}, kind="ConnectionRefusedError"}}'
REDIS = f'user_cache_errors_total{{{SERVICE}, operation="get"}}'
BATCHES = f'user_batch_operations_total{{{SERVICE}, operation="create", status="error"}}'
REFUSED = f'user_batch_operations_total{{{SERVICE}, operation="create", status="partial"}}'
SHED = f"user_shed_total{{{SERVICE}}}"
OUTBOX = f"user_outbox_oldest_seconds{{{SERVICE}}}"

CASES = {
    "UserServiceHighCpu": Case(
        fires=processor(54),
        silent=processor(30),
        boundary=processor(48),
        # The mesh proxy's use is not the service's, and four times the request is below the limit.
        more_silent=[processor(58, container=PROXY), processor(45)],
    ),
    "UserServiceHighMemory": Case(
        fires=memory("900"),
        silent=memory("500"),
        boundary=memory("850"),
        more_silent=[memory("990", container=PROXY)],
    ),
    "UserServiceRestarting": Case(
        fires={RESTARTS: "0+1x4 5+1x30"},
        silent={RESTARTS: "0x20 1x30"},
        boundary={RESTARTS: "0+0.0999x60"},
        at="20m",
    ),
    "UserServiceDown": Case(
        fires=up("1x10 0x30"),
        silent=up("1x40"),
        # One scrape that failed is not a minute.
        boundary=up("1x29 0 1x20"),
        more_fires=[
            {DEPLOYMENT: "3x40"},
            {REVISION: "1x40"},
            {REVISION: "1x40", **up("1x40", of=KNATIVE.replace('"user-service"', '"user-service-events"', 1))},
            # queue-proxy answers, the service behind it does not.
            {**up("0x40", of=KNATIVE), **up("1x40", of=KNATIVE, container="queue-proxy")},
        ],
        more_silent=[
            {REVISION: "0x40"},
            {DEPLOYMENT: "3x40", **up("1x40")},
            {REVISION: "1x40", **up("1x40", of=KNATIVE)},
        ],
    ),
    "UserServiceUnwatched": Case(
        fires={"something_else": "1x60"},
        silent=up("0x60"),
        boundary=up("1x25 stale"),
        no_data_fires=True,
        more_silent=[{REVISION: "0x60"}],
    ),
    "UserServiceSlow": Case(
        fires=durations(600, in_time=300, in_a_second=540),
        silent=durations(600, in_time=300, in_a_second=594),
        boundary=durations(600, in_time=300, in_a_second=570),
        # Too little traffic to say anything; slow imports; quick users.
        more_silent=[
            durations(3, in_time=0, in_a_second=0),
            durations(600, in_time=0, in_a_second=0, which=IMPORT),
            durations(600, in_time=0, in_a_second=0, which=PROBE),
        ],
    ),
    "UserServiceErrors": Case(
        fires=requests(600, 60),
        silent=requests(600, 6),
        boundary=requests(600, 30),
        more_fires=[requests(600, 60, of=KNATIVE), {**requests(600), SHED: "0+60x300"}],
        more_silent=[requests(3, 3), requests(600, 600, which=PROBE), requests(0, 0)],
    ),
    "UserServiceDatabaseFailures": Case(
        fires={DATABASE: "0+2x60"},
        silent={DATABASE: "7x60"},
        boundary={DATABASE: "0+1x60"},
        # A series that appears with its first failures.
        more_fires=[{DATABASE: "_x28 9x5"}],
    ),
    "UserServiceRedisFailures": Case(
        fires={REDIS: "0+2x60"},
        silent={REDIS: "7x60"},
        boundary={REDIS: "0+1x60"},
        more_fires=[{REDIS: "_x28 9x5"}],
    ),
    "UserServiceCacheMisses": Case(
        fires=reads(600, 600),
        silent=reads(1200, 60),
        boundary=reads(700, 300),
        more_fires=[{k: v for k, v in reads(0, 600).items() if "misses" in k}],
        # No cache is configured; hardly anything is read.
        more_silent=[reads(0, 600, tier="none"), reads(1, 30)],
    ),
    "UserServiceBatchFailures": Case(
        fires={BATCHES: "0+1x60"},
        silent={REFUSED: "0+5x60"},
        boundary={BATCHES: "_x25 1x20"},
        more_fires=[{BATCHES: "_x25 2x20"}],
    ),
    "UserServiceOutboxStuck": Case(
        fires={OUTBOX: "700x60"},
        silent={OUTBOX: "3x60"},
        boundary={OUTBOX: "600x60"},
    ),
    "UserServiceAvailabilityBudgetBurnsFast": Case(
        fires=requests(600, 12),
        silent=requests(600, 1.2),
        boundary=requests(600, 3.59),
        at="2h",
        # Over by now: the short windows are clean. And too little traffic.
        more_silent=[
            {**requests(600), next(k for k in requests(1) if "503" in k): "0+60x60 3600x100"},
            requests(3, 3),
        ],
    ),
    "UserServiceAvailabilityBudgetBurnsSlowly": Case(
        fires=requests(600, 2.4),
        silent=requests(600, 0.3),
        boundary=requests(600, 0.6),
        at="2h",
    ),
    "UserServiceLatencyBudgetBurnsFast": Case(
        fires=durations(600, in_time=480, in_a_second=600),
        silent=durations(600, in_time=590, in_a_second=600),
        boundary=durations(600, in_time=564, in_a_second=600),
        at="2h",
        more_silent=[durations(3, in_time=0, in_a_second=3)],
    ),
    "UserServiceLatencyBudgetBurnsSlowly": Case(
        fires=durations(600, in_time=576, in_a_second=600),
        silent=durations(600, in_time=597, in_a_second=600),
        boundary=durations(600, in_time=594.1, in_a_second=600),
        at="2h",
    ),
}
