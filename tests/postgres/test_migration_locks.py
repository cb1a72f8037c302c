"""A migration that meets a long reader: it steps aside, tries again, and names the reader."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from support.servers import PostgresServer
from support.waiting import eventually
from user_service.errors import CommandFailed
from user_service.postgres.migrations import current, downgrade, head, upgrade

# As in migrations/env.py, which runs a migration when it is imported.
MIGRATION_LOCK = 7_265_001


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session in a transaction that has read users."""
    connection = await asyncpg.connect(database_url, server_settings={"application_name": "a long report"})
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetch("SELECT 1 FROM users")
    yield connection
    await connection.close()


async def test_a_migration_gives_up_and_names_who_holds_the_lock(reader: asyncpg.Connection, database_url: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        await asyncio.to_thread(downgrade, database_url, "base", lock_attempts=1)

    assert f"process {reader.get_server_pid()} (user postgres, application a long report" in str(failed.value)
    assert "users" in str(failed.value)
    assert await asyncio.to_thread(current, database_url) == head()


async def test_a_migration_lets_others_pass_and_tries_again(
    reader: asyncpg.Connection, database_url: str, postgres: PostgresServer
) -> None:
    other = await asyncpg.connect(database_url)
    migration = asyncio.create_task(asyncio.to_thread(downgrade, database_url, "base"))
    waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass)"

    async def is_waiting() -> bool:
        return bool(await reader.fetchval(waiting))

    await eventually(is_waiting)
    # It would wait behind the migration for as long as the reader reads.
    rows = await other.fetch("SELECT 1 FROM users")
    await other.close()
    await reader.close()
    await migration

    assert rows == []
    assert await asyncio.to_thread(current, database_url) is None


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
async def test_timeouts_of_the_role_do_not_end_a_migration(
    empty_database_url: str, postgres: PostgresServer, setting: str
) -> None:
    """docs/connections.md gives the role timeouts for the service behind a pooler. Here another migration runs."""
    name = empty_database_url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f'ALTER DATABASE "{name}" SET {setting} = 700')
    other = await asyncpg.connect(empty_database_url)
    await other.execute(f"SET statement_timeout = 0; SELECT pg_advisory_lock({MIGRATION_LOCK})")
    migration = asyncio.create_task(asyncio.to_thread(upgrade, empty_database_url))
    waiting = """
        SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted
          AND datname = current_database() AND clock_timestamp() - query_start > '1400 ms')"""

    async def has_waited() -> bool:
        return migration.done() or bool(await other.fetchval(waiting))

    await eventually(has_waited)
    await other.close()
    await migration

    assert await asyncio.to_thread(current, empty_database_url) == head()
