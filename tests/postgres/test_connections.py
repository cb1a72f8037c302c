"""A pool whose server takes no new connection: requests use those that are there."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from math import inf

import pytest

from support.connections import open_connections
from support.forwarder import forwarding
from support.servers import PostgresServer
from support.waiting import eventually
from user_service.errors import DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres.connections import Connections
from user_service.postgres.connector import CHECK_SECONDS, Connection, NotConnected
from user_service.postgres.database import BEGIN, Database
from user_service.postgres.failures import URL_REFUSED, ExplainedFailure, describe_failure

# Longer than any of this takes.
SECONDS = 60.0


def name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def ordinary_url(database_url: str, postgres: PostgresServer) -> Iterator[str]:
    """The database for a role that its limit of connections holds for."""
    postgres.execute(f"CREATE ROLE ordinary_{name(database_url)} LOGIN")
    yield database_url.replace("postgres@", f"ordinary_{name(database_url)}@", 1)
    postgres.execute(f"DROP ROLE ordinary_{name(database_url)}")


async def use(connections: Connections) -> int:
    connection = await connections.acquire(seconds=SECONDS)
    try:
        return int(await connection.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.01)"))
    finally:
        connections.release(connection)


async def test_where_no_further_connection_is_allowed_requests_share_those_that_are_there(
    ordinary_url: str, postgres: PostgresServer
) -> None:
    postgres.execute(f"ALTER DATABASE {name(ordinary_url)} CONNECTION LIMIT 1")
    async with open_connections(ordinary_url, size=5) as connections:
        servers = await asyncio.gather(*(use(connections) for _ in range(20)))

    assert len(set(servers)) == 1


async def test_a_connection_that_fails_once_is_opened_again_within_the_request(
    database_url: str, postgres: PostgresServer
) -> None:
    async with forwarding(postgres.sockets) as forwarder:
        forwarder.refuses_new = True
        url = f"postgresql://postgres@127.0.0.1:{forwarder.port}/{name(database_url)}"
        async with open_connections(url) as connections:
            request = asyncio.create_task(use(connections))
            await forwarder.has_refused.wait()
            forwarder.refuses_new = False
            server = await request

    assert server > 0


async def test_the_error_of_opening_is_told_when_there_is_no_connection(
    ordinary_url: str, postgres: PostgresServer
) -> None:
    postgres.execute(f"ALTER DATABASE {name(ordinary_url)} CONNECTION LIMIT 0")
    async with open_connections(ordinary_url) as connections:
        results = await asyncio.gather(*(use(connections) for _ in range(3)), return_exceptions=True)

    assert {type(result).__name__ for result in results} == {"TooManyConnectionsError"}


async def test_a_pool_holds_no_more_connections_than_its_size(database_url: str) -> None:
    async with open_connections(database_url, size=2) as connections:
        servers = await asyncio.gather(*(use(connections) for _ in range(20)))
        opened = connections.opened

    assert (len(set(servers)), opened) == (2, 2)
    assert connections.opened == 0


async def test_a_request_that_is_given_up_leaves_its_connection_to_others(database_url: str) -> None:
    async with open_connections(database_url, size=1) as connections:
        held = await connections.acquire(seconds=SECONDS)
        waiting = [asyncio.create_task(use(connections)) for _ in range(2)]
        await asyncio.sleep(0)
        connections.release(held)
        waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        active = connections.active

    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], int)
    assert active == 0


async def test_a_connection_is_checked_before_its_use_when_the_last_check_is_old(
    database_url: str, postgres: PostgresServer
) -> None:
    async with open_connections(database_url) as connections:
        first = await use(connections)
        postgres.execute(f"SELECT pg_terminate_backend({first}, 60000)")
        connections.idle[0].checked_at -= CHECK_SECONDS + 1
        second = await use(connections)

    assert second != first


async def test_one_check_finds_that_a_firewall_has_dropped_all_connections(
    database_url: str, postgres: PostgresServer
) -> None:
    checked = []
    async with forwarding(postgres.sockets) as forwarder:
        url = f"postgresql://postgres@127.0.0.1:{forwarder.port}/{name(database_url)}"
        async with open_connections(url, size=8) as connections:
            check = connections.connector.check

            async def record(connection: Connection) -> bool:
                checked.append(connection)
                return await check(connection)

            connections.connector.check = record  # type: ignore[method-assign]
            await connections.fill(8, seconds=SECONDS)
            forwarder.drop_open()
            for connection in connections.idle:
                connection.checked_at -= CHECK_SECONDS + 1
            server = await use(connections)

    assert len(checked) == 1
    assert server > 0


async def test_connections_that_were_expired_are_replaced_before_their_next_use(database_url: str) -> None:
    async with open_connections(database_url) as connections:
        first = await use(connections)
        held = await connections.acquire(seconds=SECONDS)
        connections.connector.expire()
        connections.release(held)
        second = await use(connections)
        third = await use(connections)

    assert first != second == third
    assert CHECK_SECONDS < 5


def make_read_only(server: PostgresServer) -> None:
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on;\nSELECT pg_reload_conf()")


async def test_a_check_that_finds_a_read_only_server_expires_every_connection(own_postgres: PostgresServer) -> None:
    async with open_connections(own_postgres.url("postgres")) as connections:
        await connections.fill(2, seconds=SECONDS)
        make_read_only(own_postgres)

        async def are_expired() -> bool:
            for connection in connections.idle:
                connection.checked_at -= CHECK_SECONDS + 1
            await use(connections)
            return connections.connector.generation > 0

        await eventually(are_expired)


async def test_a_write_that_a_read_only_server_refuses_expires_every_connection(own_postgres: PostgresServer) -> None:
    """At once, and not at the next check."""
    async with open_connections(own_postgres.url("postgres")) as connections:
        connector = connections.connector
        database = Database(connector, Metrics(), size=2, seconds=SECONDS)
        await database.fill()
        make_read_only(own_postgres)

        async def is_expired() -> bool:
            for connection in database.connections.idle:
                connection.checked_at = inf
            with suppress(DatabaseUnavailable):
                async with database.session(BEGIN) as session:
                    await session.connection.execute("CREATE TABLE IF NOT EXISTS written ()")
            return connector.generation > 0

        await eventually(is_expired)
        await database.close()


async def test_a_uri_that_has_become_unusable_opens_the_breaker(database_url: str) -> None:
    """The pool of a replica: its first attempts fail within their time, and the later ones at once."""
    async with open_connections(f"{database_url}&sslmode=nonsense", writes=False) as connections:
        with pytest.raises(ExplainedFailure) as first:
            await connections.acquire(seconds=SECONDS)
        with pytest.raises(NotConnected) as later:
            await connections.acquire(seconds=SECONDS)

    assert describe_failure(later.value.__cause__) == describe_failure(first.value) == URL_REFUSED
