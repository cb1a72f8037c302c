"""`/metrics`: the names that dashboards and alerts are built on, and as many series as there are routes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.api import USERS
from support.application import Client, running
from support.settings import make_settings

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    async with running(make_settings(database_url, tmp_path)) as client:
        yield client


async def read_series(client: Client) -> Series:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def find_value(series: Series, name: str, **labels: str) -> float:
    return series.get((name, frozenset(labels.items())), 0)


async def test_the_promised_names_are_there(client: Client) -> None:
    await client.get(await client.make())

    names = {name for name, _ in await read_series(client)}

    assert names >= {
        "http_requests_total",
        "http_request_duration_seconds_bucket",
        "http_request_duration_seconds_sum",
        "http_request_duration_seconds_count",
        "user_cache_misses_total",
        "user_database_connections_active",
        "user_service_build_info",
        "process_resident_memory_bytes",
    }


async def test_requests_are_counted_by_method_route_and_status(client: Client) -> None:
    path = await client.make()
    for _ in range(3):
        await client.get(path)
    await client.get(f"{USERS}/{uuid4()}")
    series = await read_series(client)
    route = "/api/v1/users/{user_id}"

    assert find_value(series, "http_requests_total", method="GET", route=route, status="200") == 3
    assert find_value(series, "http_requests_total", method="GET", route=route, status="404") == 1
    assert find_value(series, "http_requests_total", method="POST", route="/api/v1/users", status="201") == 1
    assert find_value(series, "http_request_duration_seconds_count", method="GET", route=route) == 4
    assert find_value(series, "user_cache_hits_total", tier="memory") == 2
    assert find_value(series, "user_cache_misses_total", tier="memory") == 2


async def test_one_second_is_an_edge_and_buckets_add_up(client: Client) -> None:
    await client.get("/api/health/live")
    series = await read_series(client)
    route = {"method": "GET", "route": "/api/health/live"}
    edges = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in series.items()
        if name == "http_request_duration_seconds_bucket" and dict(labels)["route"] == route["route"]
    )

    assert 1.0 in [edge for edge, _ in edges]
    assert [count for _, count in edges] == sorted(count for _, count in edges)
    assert edges[-1] == (float("inf"), find_value(series, "http_request_duration_seconds_count", **route))


async def test_strange_paths_methods_and_ids_add_no_series(client: Client) -> None:
    await ask_strangely(client, "first")
    await read_series(client)
    before = await list_names(client)
    for _ in range(5):
        await ask_strangely(client, uuid4().hex)

    assert await list_names(client) == before


async def list_names(client: Client) -> set[Any]:
    """Which series there are, but for those of the loop's lag, which begin by themselves after a second."""
    return {key for key in await read_series(client) if "event_loop_lag" not in key[0]}


async def ask_strangely(client: Client, word: str) -> None:
    for method in ("GET", "POST", f"X{word[:6].upper()}"):
        for path in (f"/{word}", f"/api/v1/{word}", f"{USERS}/{word}", f"{USERS}/{uuid4()}", f"{USERS}/{word}/{word}"):
            await client.request(method, path)
    await client.put(f"{USERS}/by-external-id/{word}", json={"email": f"{word}@example.org"})


async def test_metrics_need_no_key(client: Client) -> None:
    client.headers.pop("X-API-Key")

    assert (await client.get("/metrics")).status_code == 200
