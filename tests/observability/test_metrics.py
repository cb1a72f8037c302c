"""What /metrics shows, and what docs/metrics.md says it shows."""

import json
import random
import re
import string
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.api import USERS, create_user, user_url
from support.load import put_load
from support.process import ServiceProcess, serving
from support.servers import PostgresServer

DOCUMENTED = Path(__file__).parents[2] / "docs/metrics.md"
# What Prometheus's own library adds about the process and the interpreter.
PROCESS = re.compile("process_|python_")


@pytest.fixture(scope="module")
def service(
    postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    url = postgres.create_database("metrics", template=migrated_template)
    with serving(tmp_path_factory.mktemp("metrics"), DATABASE_URL=url, APP_ENV="production") as service:
        with service.client() as client:
            put_load(client)
        yield service
    postgres.drop_database("metrics")


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def samples(client: httpx.Client) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def families(client: httpx.Client) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and label names of each family of the service's own; a counter under its full name."""
    declared = re.findall(r"^# TYPE (\S+) (\S+)$", client.get("/metrics").text, re.MULTILINE)
    values = samples(client)
    found = {}
    for name, kind in declared:
        if not PROCESS.match(name):
            series = values.get(name) or values.get(f"{name}_count") or {}
            names = {label for labels in series for label, _ in labels}
            found[name] = (kind, tuple(sorted(names)))
    return found


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", DOCUMENTED.read_text(), re.MULTILINE)
    return {name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows}


# Labels and functions aside, what PromQL and the HPA name; metrics of the cluster's own exporters are theirs.
OWN_METRIC = re.compile(r"\b((?:user|http)_[a-z0-9_]+)\s*[{\[)>\s]")
LABELS = re.compile(r"\{[^}]*\}|by \([^)]*\)|on \([^)]*\)")


def asked_for() -> dict[str, set[str]]:
    """The service's metrics that alerts, panels and autoscalers ask for, by the file that does."""
    root = Path(__file__).parents[2]
    files = [path for folder in ("k8s-common", "k8s-fallback", "knative") for path in (root / folder).rglob("*.*")]
    asked = {}
    for path in files:
        text = path.read_text()
        if path.suffix == ".json":
            queries = [json.dumps(node) for node in every("expr", json.loads(text))]
        else:
            documents = list(yaml.safe_load_all(text)) if path.suffix == ".yaml" else []
            scaled = [metric["name"] for pods in every("pods", documents) for metric in every("metric", pods)]
            queries = [*every("expr", documents), *(f"{name} " for name in scaled)]
        if queries:
            asked[str(path.relative_to(root))] = {
                name for query in queries for name in OWN_METRIC.findall(LABELS.sub("{}", f"{query} "))
            }
    return asked


def every(key: str, node: Any) -> Iterator[Any]:
    """The values of a key, however deep they are."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from every(key, value)
    elif isinstance(node, list):
        for value in node:
            yield from every(key, value)


def test_every_metric_that_is_asked_for_is_there(client: httpx.Client) -> None:
    # A counter with labels has no series before it counts.
    asked, there = asked_for(), {*samples(client), *families(client)}

    assert {path for path, names in asked.items() if names} >= {
        "k8s-common/components/monitoring/dashboard.json",
        "k8s-common/components/monitoring/prometheusrule.yaml",
        "k8s-fallback/components/vpa-in-place/hpa.yaml",
    }
    assert {path: missing for path, names in asked.items() if (missing := names - there)} == {}


def test_every_metric_is_documented_and_every_documented_metric_is_there(client: httpx.Client) -> None:
    assert set(families(client)) == set(documented())


def test_a_metric_has_the_type_and_the_labels_of_its_documentation(client: httpx.Client) -> None:
    shown, written = families(client), documented()

    # A counter with labels has none before it has counted something.
    seen = {name: facts for name, facts in shown.items() if facts[1] or not written[name][1]}

    assert seen.items() <= written.items()
    assert {"http_requests_total", "user_cache_hits_total", "user_service_build_info"} <= set(seen)


def test_a_request_is_counted_and_timed_by_its_route(client: httpx.Client) -> None:
    path = user_url(create_user(client))
    route = "/api/v1/users/{user_id}"
    counted = (("method", "GET"), ("route", route), ("status", "200"))
    timed = (("method", "GET"), ("route", route))
    before = samples(client)

    client.get(path)
    after = samples(client)

    assert after["http_requests_total"][counted] == before["http_requests_total"][counted] + 1
    count = "http_request_duration_seconds_count"
    assert after[count][timed] == before[count][timed] + 1


def test_durations_add_up_over_the_statuses_of_a_route(client: httpx.Client) -> None:
    values = samples(client)
    route = "/api/v1/users/{user_id}"

    by_status = {
        dict(labels)["status"]: count
        for labels, count in values["http_requests_total"].items()
        if dict(labels)["route"] == route and dict(labels)["method"] == "GET"
    }

    assert {"200", "404"} <= set(by_status)
    timed = (("method", "GET"), ("route", route))
    assert sum(by_status.values()) == values["http_request_duration_seconds_count"][timed]


def test_one_second_is_an_edge_of_a_bucket(client: httpx.Client) -> None:
    edges = {dict(labels)["le"] for labels in samples(client)["http_request_duration_seconds_bucket"]}

    assert {"0.25", "1.0", "+Inf"} <= edges


def test_the_scrape_itself_is_in_flight(client: httpx.Client) -> None:
    assert samples(client)["http_requests_in_flight"][()] == 1


def test_the_pool_never_has_more_in_use_than_open_nor_more_open_than_allowed(client: httpx.Client) -> None:
    values = {
        name: samples(client)[f"user_database_connections_{name}"][()]
        for name in ("active", "open", "limit", "waiting")
    }

    assert 0 <= values["active"] <= values["open"] <= values["limit"] == 20
    assert values["open"] > 0
    assert values["waiting"] == 0


def test_random_traffic_makes_no_series_of_its_own(client: httpx.Client) -> None:
    chance = random.Random(7)
    shapes = ["/{}", f"{USERS}/{{}}", f"{USERS}/by-external-id/{{}}", f"{USERS}?{{}}=1"]

    def word() -> str:
        return "".join(chance.choices(string.ascii_letters, k=12))

    def ask(method: str, shape: str) -> None:
        client.request(method, shape.format(word()), headers={"X-Request-ID": word()}, json={word(): word()})

    def count() -> int:
        return sum(map(len, samples(client).values()))

    for method, shape in product(["GET", "PUT", "POST", "PURGE"], shapes):
        ask(method, shape)
    settled = count()
    for _ in range(200):
        ask(chance.choice(["GET", "PUT", "POST", word().upper()]), chance.choice(shapes))

    assert count() == settled
    assert "OTHER" in {dict(labels)["method"] for labels in samples(client)["http_requests_total"]}
