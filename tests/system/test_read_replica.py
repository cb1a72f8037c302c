"""`DATABASE_READ_URL`: what is read from the replica, and what happens while it is away.

The replica here has users of its own, so that each response shows the server that it was read from.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support.api import USERS
from support.application import Client, running
from support.forwarder import forwarding
from support.postgres_faults import frozen, stopped
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually
from user_service.errors import ConfigurationError
from user_service.postgres.connector import CHECK_SECONDS
from user_service.postgres.migrations import upgrade
from user_service.settings import Settings

ON_PRIMARY, ON_REPLICA = "primary@example.org", "replica@example.org"
EXPORT = f"{USERS}/export"
MAX_CONNECTIONS = 8


@pytest.fixture
async def replica_url(own_postgres: PostgresServer, tmp_path: Path) -> str:
    url = own_postgres.create_database("replica")
    await asyncio.to_thread(upgrade, url)
    async with running(make_settings(url, tmp_path)) as client:
        await client.post(USERS, json={"email": ON_REPLICA, "external_id": "on-replica"})
    return url


@pytest.fixture
async def client(database_url: str, replica_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    settings = make_settings(
        database_url,
        tmp_path,
        database_read_url=replica_url,
        database_timeout=1,
        postgres_max_connections=MAX_CONNECTIONS,
    )
    async with running(settings) as client:
        await client.post(USERS, json={"email": ON_PRIMARY, "external_id": "on-primary"})
        yield client


async def listed(client: Client, **query: str) -> list[str]:
    response = await client.get(USERS, params=query)
    assert response.status_code == 200, response.text
    return [user["email"] for user in response.json()["items"]]


async def exported(client: Client) -> list[str]:
    response = await client.get(EXPORT)
    assert response.status_code == 200, response.text
    return [json.loads(line)["email"] for line in response.text.splitlines()]


async def test_lists_come_from_the_replica_and_finds_by_key_from_the_primary(client: Client) -> None:
    by_key = {"email": ON_PRIMARY}, {"external_id": "on-primary"}
    missing = {"email": ON_REPLICA}, {"external_id": "on-replica"}

    assert await listed(client) == await exported(client) == [ON_REPLICA]
    assert [await listed(client, **query) for query in by_key] == [[ON_PRIMARY], [ON_PRIMARY]]
    assert [await listed(client, **query) for query in missing] == [[], []]


@pytest.mark.parametrize("fault", [stopped, frozen])
async def test_lists_and_exports_come_from_the_primary_while_the_replica_is_away(
    client: Client,
    own_postgres: PostgresServer,
    fault: Callable[[PostgresServer], AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="user_service")
    reads = client.resources.services.database.lagging_reads  # type: ignore[union-attr]
    before = await listed(client)
    with fault(own_postgres):
        away = [await exported(client), await listed(client)]
        reads.pause_seconds = 0
        away.append(await listed(client))
    metrics = (await client.get("/metrics")).text

    async def is_back() -> bool:
        return await listed(client) == [ON_REPLICA]

    await eventually(is_back)
    assert before == [ON_REPLICA]
    assert away == [[ON_PRIMARY]] * 3
    assert "user_replica_fallbacks_total 3.0" in metrics
    assert caplog.messages.count("the read replica is unavailable; lists read from the primary") == 1
    assert caplog.messages.count("the read replica is in use again") == 1


async def test_connections_to_the_replica_that_a_firewall_has_dropped_are_replaced(
    database_url: str, replica_url: str, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    async with forwarding(own_postgres.sockets) as forwarder:
        url = f"postgresql://postgres@127.0.0.1:{forwarder.port}/replica"
        settings = make_settings(database_url, tmp_path, database_read_url=url)
        async with running(settings) as client:
            before = await asyncio.gather(*(listed(client) for _ in range(10)))
            replica = client.resources.services.database.replica  # type: ignore[union-attr]
            assert replica is not None
            forwarder.drop_open()
            for connection in replica.connections.idle:
                connection.checked_at -= CHECK_SECONDS + 1
            after = [await listed(client) for _ in range(5)]
            fallbacks = client.resources.metrics.replica_fallbacks.values

    assert before == [[ON_REPLICA]] * 10
    assert after == [[ON_REPLICA]] * 5
    assert not any(fallbacks.values())


async def test_all_pools_together_stay_within_the_budget(
    client: Client, database_url: str, replica_url: str, own_postgres: PostgresServer, postgres: PostgresServer
) -> None:
    """Every connection that the service may open is asked for at once."""
    requests = [client.get(USERS) for _ in range(60)] + [client.get(EXPORT) for _ in range(20)]
    requests += [client.post(USERS, json={"email": f"u{number}@example.org"}) for number in range(60)]
    path = await client.make()
    requests += [client.get(path, headers={"Cache-Control": "no-cache"}) for _ in range(60)]
    responses = await asyncio.gather(*requests)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'user-service' AND datname = '{}'"
    name = database_url.rpartition("?")[0].rpartition("/")[2]
    on_primary = int(postgres.execute(count.format(name)))
    on_replica = int(own_postgres.execute(count.format("replica")))

    assert {response.status_code for response in responses} <= {200, 201, 503}
    assert on_primary > 1
    assert on_replica >= 1
    assert on_primary + on_replica <= MAX_CONNECTIONS
    assert f"user_database_connections_limit {MAX_CONNECTIONS}.0" in (await client.get("/metrics")).text


def test_a_budget_that_leaves_a_pool_without_a_connection_is_refused() -> None:
    environ = {
        "DATABASE_URL": "postgresql://h/d",
        "DATABASE_READ_URL": "postgresql://r/d",
        "POSTGRES_MAX_CONNECTIONS": "2",
    }

    with pytest.raises(ConfigurationError, match="at least 3"):
        Settings.load(environ)
