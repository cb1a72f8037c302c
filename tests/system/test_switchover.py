"""The primary moves to another server: no write goes to the former one, and no read stays with it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.api import USERS
from support.application import Client, running
from support.postgres_faults import restart_as_standby
from support.servers import PostgresServer, postgres_server
from support.settings import make_settings
from support.waiting import eventually, wait_until
from user_service.postgres.migrations import upgrade

FRESH = {"Cache-Control": "no-cache"}
# The servers of the tests commit asynchronously: the checkpoint writes what they have acknowledged.
READ_ONLY = "ALTER SYSTEM SET default_transaction_read_only = on;\nSELECT pg_reload_conf();\nCHECKPOINT"


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[PostgresServer]:
    with postgres_server(tmp_path) as server:
        upgrade(server.create_database("users"))
        yield server


@pytest.fixture
def standby(tmp_path: Path, primary: PostgresServer) -> Iterator[PostgresServer]:
    with postgres_server(tmp_path, primary=primary) as server:
        yield server


@pytest.fixture
def both(primary: PostgresServer, standby: PostgresServer) -> str:
    """A URI that lists the primary and the standby."""
    return f"postgresql://postgres@/users?host={primary.sockets},{standby.sockets}&port=5432"


@pytest.fixture
async def client(both: str, tmp_path: Path) -> AsyncIterator[Client]:
    """Without a cache, so that each read asks a database."""
    async with running(make_settings(both, tmp_path, cache="none")) as client:
        yield client


def position(server: PostgresServer, function: str) -> int:
    return int(server.execute(f"SELECT pg_wal_lsn_diff({function}(), '0/0')"))


def switch_over(primary: PostgresServer, standby: PostgresServer) -> None:
    """The primary stays up and takes no writes any more; the standby has all of them and takes its place."""
    primary.execute(READ_ONLY)
    last = position(primary, "pg_current_wal_flush_lsn")
    wait_until(lambda: position(standby, "pg_last_wal_replay_lsn") >= last, "the standby to catch up")
    standby.execute("SELECT pg_promote()")


async def can_change(client: Client, path: str) -> bool:
    response = await client.patch(path, json={"given_name": "Grace"})
    assert response.status_code in {200, 503}, response.text
    return response.status_code == 200


async def test_a_refused_write_moves_every_connection_to_the_new_primary(
    client: Client, primary: PostgresServer, standby: PostgresServer
) -> None:
    path = await client.make()
    await client.get(path, headers=FRESH)
    switch_over(primary, standby)

    await eventually(lambda: can_change(client, path))
    made = [await client.make() for _ in range(5)]
    reads = [await client.get(path, headers=FRESH) for path in made]
    lists = await client.get(USERS)

    assert [read.status_code for read in reads] == [200] * 5
    assert len(lists.json()["items"]) == 6


async def test_reads_alone_find_the_new_primary(
    client: Client, both: str, primary: PostgresServer, standby: PostgresServer, tmp_path: Path
) -> None:
    path = await client.make()
    await client.get(path, headers=FRESH)
    switch_over(primary, standby)
    async with running(make_settings(both, tmp_path, cache="none")) as other:
        made = await other.make()

    async def is_found() -> bool:
        return (await client.get(made, headers=FRESH)).status_code == 200

    await eventually(is_found)


async def test_a_server_that_became_a_standby_answers_no_read(tmp_path: Path, primary: PostgresServer) -> None:
    async with running(make_settings(primary.url("users"), tmp_path, cache="none", database_timeout=1)) as client:
        path = await client.make()
        restart_as_standby(primary)

        responses = [await client.get(path, headers=FRESH), await client.get(USERS), await client.delete(path)]

    assert [(response.status_code, response.json()["code"]) for response in responses] == [
        (503, "database_unavailable")
    ] * 3


@pytest.mark.parametrize("wanted", ["any", "primary", "read-write"])
async def test_a_standby_that_is_listed_first_is_passed_over(
    primary: PostgresServer, standby: PostgresServer, tmp_path: Path, wanted: str
) -> None:
    url = (
        f"postgresql://postgres@/users?host={standby.sockets},{primary.sockets}&port=5432&target_session_attrs={wanted}"
    )
    async with running(make_settings(url, tmp_path, cache="none")) as client:
        made = [await client.make() for _ in range(5)]
        reads = [await client.get(path, headers=FRESH) for path in made]

    assert [read.status_code for read in reads] == [200] * 5
