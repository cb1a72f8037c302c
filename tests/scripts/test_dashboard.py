"""The dashboard over a real Prometheus, a real service and a load: every panel has to show something."""

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import dashboard
import pytest

from support.event_sink import running_sink
from support.load import put_load
from support.process import serving
from support.prometheus import Prometheus, needs_prometheus, prometheus
from support.servers import postgres_server, redis_server
from support.waiting import PATIENCE_SECONDS

PANELS: list[dict[str, Any]] = [panel for panel in dashboard.panels() if panel["type"] != "row"]
VALUES = {"$namespace": "microservices", "$job": "(.+/)?user-service", "$__rate_interval": "1m"}


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has watched a load, and then a service without its Redis and its PostgreSQL."""
    from user_service.postgres.migrations import upgrade

    folder = tmp_path_factory.mktemp("dashboard")
    with postgres_server(folder) as postgres, redis_server(folder) as redis, running_sink() as sink:
        url = postgres.create_database("dashboard")
        upgrade(url)
        environ = {"APP_ENV": "production", "DATABASE_URL": url, "REDIS_URL": redis.url, "EVENT_SINK_URL": sink.url}
        with (
            serving(folder, **environ) as service,
            service.client() as client,
            prometheus(folder, service.url) as server,
        ):
            put_load(client)
            redis.stop()
            put_load(client, rounds=4)
            postgres.stop()
            assert client.get("/api/v1/users").status_code == 503
            wait_until_seen(server, 'user_database_errors_total{kind!=""}')
            put_failures(client)
            yield server


def put_failures(client: Any) -> None:
    """More of the same, once Prometheus has seen the first, so that there is a rate."""
    for _ in range(3):
        assert client.get("/api/v1/users").status_code == 503
        time.sleep(1)


def wait_until_seen(server: Prometheus, query: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not server.values(query):
        assert time.monotonic() < deadline, f"Prometheus never saw {query}"
        time.sleep(0.2)


def filled_in(query: str) -> str:
    for variable, value in VALUES.items():
        query = query.replace(variable, value)
    return query


@needs_prometheus
def test_every_query_of_every_panel_finds_data_and_every_rule_is_evaluated(watching: Prometheus) -> None:
    wait_until_seen(watching, "user_service:slo_errors:ratio5m")

    empty = {
        panel["title"]
        for panel in PANELS
        for target in panel["targets"]
        if not any(map(math.isfinite, watching.values(filled_in(target["expr"]))))
    }
    rules = [rule for group in watching.ask("rules")["groups"] for rule in group["rules"]]

    assert empty == set()
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}


def test_the_committed_dashboard_is_what_the_script_writes() -> None:
    assert dashboard.TARGET.read_text() == dashboard.text(), "run python scripts/dashboard.py"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    everything = json.loads(dashboard.text())["panels"]

    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_every_query_uses_the_variables() -> None:
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]

    assert all('namespace="$namespace"' in query for query in queries)
    assert {name for query in queries for name in re.findall(r"\$\w+", query)} == set(VALUES)
