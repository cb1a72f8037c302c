"""The schema: what migrations make, and what the code believes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from support.process import command
from user_service.postgres.migrations import alembic_config, current, downgrade, head, upgrade
from user_service.postgres.tables import metadata
from user_service.values.ids import id_time

# What a comparison of tables does not see: constraints, partial indexes, defaults, statistics.
DEFINITIONS = """
SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
UNION ALL
SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
UNION ALL
SELECT adrelid::regclass || '.' || attname || ' ' || pg_get_expr(adbin, adrelid) FROM pg_attrdef
JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
UNION ALL
SELECT attrelid::regclass || '.' || attname || ' statistics ' || attstattarget FROM pg_attribute
WHERE attstattarget > 0
ORDER BY 1
"""


async def with_connection(url: str, work: object) -> object:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    async with engine.begin() as connection:
        return await connection.run_sync(work)  # type: ignore[arg-type]


async def definitions(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(DEFINITIONS)
    await connection.close()
    return [row[0] for row in rows]


async def test_the_migrated_schema_is_the_one_in_tables(database_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    assert await with_connection(database_url, differences) == []


async def test_constraints_and_partial_indexes_are_those_of_tables_too(
    database_url: str, empty_database_url: str
) -> None:
    await with_connection(empty_database_url, metadata.create_all)

    assert await definitions(database_url) == await definitions(empty_database_url)


def test_head_is_alembics_head_and_history_is_one_line() -> None:
    script = ScriptDirectory.from_config(alembic_config("postgresql://"))

    assert script.get_heads() == [head()]
    assert [revision.revision for revision in script.walk_revisions()][-1] == "0006"


def test_down_leaves_nothing_and_up_makes_the_same_again(database_url: str) -> None:
    before = asyncio.run(definitions(database_url))
    downgrade(database_url, "base")
    between = asyncio.run(definitions(database_url))
    upgrade(database_url)

    assert between == []
    assert asyncio.run(definitions(database_url)) == before
    assert current(database_url) == head()


# Of one user, versions 1 to 3 in the partition 15 of revision 0007, of which the first was delivered.
FOLLOWED = """
INSERT INTO user_changes
  (user_id, version, type, status, changed, actor, request_id, traceparent, changed_at, lane, txid)
SELECT 'ffffffff-ffff-ffff-ffff-ffffffffffff', n, 'updated', 'active', '{}', 'a', '', '', '2026-01-02T03:04:05Z', 15,
  CASE n WHEN 1 THEN 70 WHEN 2 THEN 1000000000 ELSE 1000000000 + n END FROM generate_series(1, 3) n;
UPDATE outbox_lanes SET txid = 70, user_id = 'ffffffff-ffff-ffff-ffff-ffffffffffff', version = 1 WHERE lane = 15
"""
BEYOND_CURSOR = """
SELECT c.version FROM user_changes c JOIN outbox_lanes l USING (lane)
WHERE (c.txid, c.user_id, c.version) > (l.txid, l.user_id, l.version)
  AND c.txid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint ORDER BY c.txid, c.version
"""


def fetch(url: str, statement: str) -> list[tuple[Any, ...]]:
    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(statement)
        await connection.close()
        return [tuple(row) for row in rows]

    return asyncio.run(run())


def execute(url: str, statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statements)
        await connection.close()

    asyncio.run(run())


def test_pending_events_stay_pending_up_and_down(database_url: str) -> None:
    downgrade(database_url, "0007")
    execute(database_url, FOLLOWED)
    upgrade(database_url)

    assert fetch(database_url, "SELECT partition, version FROM outbox ORDER BY seq") == [(15, 2), (15, 3)]
    ids = fetch(database_url, "SELECT event_id FROM user_changes")
    assert len(set(ids)) == 3
    assert {event_id.version for (event_id,) in ids} == {7}
    assert {id_time(event_id).isoformat() for (event_id,) in ids} == {"2026-01-02T03:04:05+00:00"}
    downgrade(database_url, "0007")
    assert fetch(database_url, BEYOND_CURSOR) == [(2,), (3,)]


def test_a_database_without_a_revision_has_none(empty_database_url: str) -> None:
    assert current(empty_database_url) is None


def test_concurrent_migrations_take_turns(empty_database_url: str, tmp_path: Path) -> None:
    def migrate(_: int) -> int:
        return command(tmp_path, "migrate", DATABASE_URL=empty_database_url).returncode

    with ThreadPoolExecutor(3) as pool:
        statuses = list(pool.map(migrate, range(3)))

    assert statuses == [0, 0, 0]
    assert current(empty_database_url) == head()
