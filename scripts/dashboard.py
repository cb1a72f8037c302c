"""Writes the Grafana dashboard, k8s-common/components/monitoring/dashboard.json: `python scripts/dashboard.py`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TARGET: Final = Path(__file__).parents[1] / "k8s-common/components/monitoring/dashboard.json"
OWN: Final = 'namespace="$namespace", job=~"$job"'
CALLERS: Final = f'{OWN}, route!~"/api/health/.*|/metrics"'
POD: Final = 'namespace="$namespace", container="user-service"'
PROXY: Final = 'namespace="$namespace", pod=~"((.+-)?user-service)-.+"'
RATE: Final = "[$__rate_interval]"
WIDTH, HEIGHT, COLUMNS = 8, 7, 24


@dataclass(frozen=True)
class Panel:
    """A chart of queries over time: legend by query. `unit` is one of Grafana's; `about` stands behind its (i)."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""


def per_second(metric: str, *by: str, where: str = OWN) -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{{where}}}{RATE}))"


def total(metric: str) -> str:
    return f"sum({metric}{{{OWN}}})"


def share_query(share: float, metric: str, *by: str, where: str = CALLERS) -> str:
    """The value below which this share of a histogram's observations lies."""
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *by))}) (rate({metric}_bucket{{{where}}}{RATE})))"


ROWS: Final[dict[str, list[Panel]]] = {
    "Requests": [
        Panel(
            "Requests by route", {"{{method}} {{route}}": per_second("http_requests_total", "method", "route")}, "reqps"
        ),
        Panel("Requests in flight", {"{{pod}}": f"http_requests_in_flight{{{OWN}}}"}),
        Panel("Replicas", {"{{version}}": f"count by (version) (user_service_build_info{{{OWN}}})"}),
    ],
    "Latency": [
        Panel(
            "Latency of all requests",
            {f"{share:.0%}": share_query(share, "http_request_duration_seconds") for share in (0.5, 0.95, 0.99)},
            "s",
            "Probes and scrapes apart",
        ),
        Panel(
            "Latency by route, 95 %",
            {"{{method}} {{route}}": share_query(0.95, "http_request_duration_seconds", "method", "route")},
            "s",
        ),
        Panel(
            "Answered within 250 ms",
            {
                "share": f'sum(rate(http_request_duration_seconds_bucket{{{CALLERS}, le="0.25"}}{RATE}))'
                f" / sum(rate(http_request_duration_seconds_count{{{CALLERS}}}{RATE}))"
            },
            "percentunit",
            "The objective is 99 %",
        ),
    ],
    "Errors": [
        Panel(
            "Errors by status",
            {"{{status}}": per_second("http_requests_total", "status", where=f'{CALLERS}, status=~"[45].."')},
            "reqps",
        ),
        Panel(
            "Share of 5xx",
            {
                "share": f'(sum(rate(http_requests_total{{{CALLERS}, status=~"5.."}}{RATE})) or vector(0))'
                f" / sum(rate(http_requests_total{{{CALLERS}}}{RATE}))"
            },
            "percentunit",
            "The objective is 0.1 % at most",
        ),
        Panel(
            "Failures of PostgreSQL and Redis",
            {
                "PostgreSQL {{kind}}": per_second("user_database_errors_total", "kind"),
                "Redis {{operation}}": per_second("user_cache_errors_total", "operation"),
            },
            "ops",
        ),
        Panel(
            "Refused",
            {
                "overload": f"sum(rate(user_shed_total{{{OWN}}}{RATE}))",
                "rate limit": f"sum(rate(user_rate_limited_total{{{OWN}}}{RATE})) or vector(0)",
            },
            "reqps",
        ),
    ],
    "Cache": [
        Panel(
            "Hit rate",
            {
                "{{tier}}": f"{per_second('user_cache_hits_total', 'tier')}"
                f" / ({per_second('user_cache_hits_total', 'tier')} + {per_second('user_cache_misses_total', 'tier')})"
            },
            "percentunit",
        ),
        Panel(
            "Reads",
            {
                "hits, {{tier}}": per_second("user_cache_hits_total", "tier"),
                "misses, {{tier}}": per_second("user_cache_misses_total", "tier"),
            },
            "ops",
        ),
        Panel(
            "Cached in the processes",
            {
                "bytes": total("user_cache_size_bytes"),
            },
            "bytes",
        ),
    ],
    "Batches and events": [
        Panel(
            "Batches by outcome",
            {"{{operation}} {{status}}": per_second("user_batch_operations_total", "operation", "status")},
            "ops",
        ),
        Panel(
            "Events",
            {
                "out: {{outcome}}": per_second("user_events_published_total", "outcome"),
                "in: {{type}} {{outcome}}": per_second("user_events_received_total", "type", "outcome"),
            },
            "ops",
        ),
        Panel(
            "Outbox",
            {
                "waiting": f"max(user_outbox_pending{{{OWN}}})",
                "age of the oldest, s": f"max(user_outbox_oldest_seconds{{{OWN}}})",
            },
        ),
    ],
    "Database": [
        Panel(
            "Database connections",
            {
                "in use": total("user_database_connections_active"),
                "open": total("user_database_connections_open"),
                "limit": total("user_database_connections_limit"),
            },
        ),
        Panel("Waiting for a connection", {"{{pod}}": f"user_database_connections_waiting{{{OWN}}}"}),
    ],
    "Saturation": [
        Panel(
            "Event loop lag, 99 %",
            {"{{pod}}": share_query(0.99, "user_service_event_loop_lag_seconds", "pod", where=OWN)},
            "s",
        ),
        Panel(
            "Processor, share of the limit",
            {
                "{{pod}}": f"max by (pod) (rate(container_cpu_usage_seconds_total{{{POD}}}{RATE}))"
                f' / on (pod) max by (pod) (kube_pod_container_resource_limits{{{POD}, resource="cpu"}})'
            },
            "percentunit",
        ),
        Panel(
            "Memory, share of the limit",
            {
                "{{pod}}": f"max by (pod) (container_memory_working_set_bytes{{{POD}}})"
                f' / on (pod) max by (pod) (kube_pod_container_resource_limits{{{POD}, resource="memory"}})'
            },
            "percentunit",
        ),
        Panel(
            "Processor of the process",
            {"{{pod}}": f"rate(process_cpu_seconds_total{{{OWN}}}{RATE})"},
            "percentunit",
        ),
        Panel("Memory of the process", {"{{pod}}": f"process_resident_memory_bytes{{{OWN}}}"}, "bytes"),
        Panel("Restarts", {"{{pod}}": f"max by (pod) (kube_pod_container_status_restarts_total{{{POD}}})"}),
    ],
    "queue-proxy (Knative)": [
        Panel(
            "Requests through queue-proxy",
            {"{{pod}}": f"sum by (pod) (rate(kn_serving_invocation_duration_seconds_count{{{PROXY}}}{RATE}))"},
            "reqps",
            "Needs request-metrics-protocol: prometheus in Knative's config-observability",
        ),
        Panel(
            "Latency behind queue-proxy, 95 %",
            {"{{pod}}": share_query(0.95, "kn_serving_invocation_duration_seconds", "pod", where=PROXY)},
            "s",
        ),
        Panel("Requests queued", {"{{pod}}": f"kn_serving_queue_depth{{{PROXY}}}"}),
    ],
}


def dashboard() -> dict[str, Any]:
    return {
        "uid": "user-service",
        "title": "User Service",
        "tags": ["user-service"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "panels": panels(),
    }


def variables() -> list[dict[str, Any]]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    query = {"type": "query", "datasource": source, "refresh": 2, "sort": 1}
    namespaces = "label_values(user_service_build_info, namespace)"
    jobs = 'label_values(user_service_build_info{namespace="$namespace"}, job)'
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {**query, "name": "namespace", "label": "Namespace", "query": {"query": namespaces, "refId": "namespace"}},
        {
            **query,
            "name": "job",
            "label": "Job",
            "query": {"query": jobs, "refId": "job"},
            "includeAll": True,
            "multi": True,
            "allValue": "(.+/)?user-service",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def panels() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        made.append(
            {"id": len(made) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        for number, panel in enumerate(row):
            column, line = number % 3, number // 3
            place = {"x": column * WIDTH, "y": y + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            made.append({"id": len(made) + 1, "gridPos": place, **chart(panel)})
        y += HEIGHT * -(-len(row) // 3)
    return made


def chart(panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": source, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
