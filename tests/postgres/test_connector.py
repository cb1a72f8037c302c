"""New connections to hosts that are silent, away or of the wrong kind."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import asyncpg
import pytest

from support.connections import open_connections
from support.postgres_faults import stopped
from support.servers import PostgresServer
from support.silent_host import full_host, silent_host
from support.waiting import eventually
from user_service.errors import ConfigurationError
from user_service.postgres.connector import Connector, NotConnected
from user_service.resilience.circuit_breaker import FAILURES_TO_OPEN

READ_ONLY = "ALTER DATABASE {} SET default_transaction_read_only = on"


def behind(hosts: list[str], url: str, server: PostgresServer) -> str:
    """The URI of a database with other hosts, `name:port`, in front of its own."""
    names = [*(host.rpartition(":")[0] for host in hosts), str(server.sockets)]
    ports = [*(host.rpartition(":")[2] for host in hosts), "5432"]
    database = url.partition("?")[0]
    return f"{database}?host={','.join(names)}&port={','.join(ports)}"


async def can_connect(connector: Connector) -> bool:
    try:
        (await connector.connect()).terminate()
    except NotConnected:
        return False
    return True


@pytest.mark.parametrize("unreachable", [silent_host, full_host])
async def test_a_host_that_is_silent_is_passed_over_and_tried_last_from_then_on(
    unreachable: Callable[[], AbstractContextManager[str]], database_url: str, postgres: PostgresServer
) -> None:
    with unreachable() as host:
        url = behind([host], database_url, postgres)
        async with open_connections(url) as connections:
            connector = connections.connector
            before = connector.hosts(url)
            connection = await connector.connect()
            after = connector.hosts(url)
            value = await connection.fetchval("SELECT 1")
            connection.terminate()

    assert value == 1
    assert after == list(reversed(before))


async def test_after_three_failures_a_probe_alone_tries_and_its_success_is_the_end(
    own_postgres: PostgresServer,
) -> None:
    async with open_connections(own_postgres.url("postgres")) as connections:
        connector = connections.connector
        with stopped(own_postgres):
            for _ in range(FAILURES_TO_OPEN):
                with pytest.raises(OSError):  # noqa: PT011 - which one is the machine's affair
                    await connector.connect()
            with pytest.raises(NotConnected) as refused:
                await connector.connect()
        await eventually(lambda: can_connect(connector))

    assert isinstance(refused.value.__cause__, OSError)


async def test_a_read_only_server_is_taken_where_there_is_no_other_one(
    database_url: str, postgres: PostgresServer
) -> None:
    postgres.execute(READ_ONLY.format(database_url.partition("?")[0].rpartition("/")[2]))
    async with open_connections(database_url) as connections:
        connection = await connections.connector.connect()
        value = await connection.fetchval("SHOW transaction_read_only")
        connection.terminate()

    assert value == "on"


async def test_what_the_uri_asks_for_comes_first(database_url: str) -> None:
    async with open_connections(f"{database_url}&target_session_attrs=standby") as connections:
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
            await connections.connector.connect()
    async with open_connections(f"{database_url}&target_session_attrs=prefer-standby") as connections:
        connection = await connections.connector.connect()
        connection.terminate()


async def test_a_uri_that_never_worked_is_a_fault_of_configuration() -> None:
    async with open_connections("postgresql://u@host/db?sslmode=nonsense") as connections:
        with pytest.raises(ConfigurationError, match="DATABASE_URL is not a URL"):
            await connections.connector.connect()
