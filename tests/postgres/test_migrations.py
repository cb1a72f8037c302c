"""The schema: what migrations make, and what the code believes."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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

PARTITION = re.compile("_([0-9]{4}_[0-9]{2}|default)$")
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
    def is_compared(_: object, name: str | None, kind: str, *others: object) -> bool:
        return kind != "table" or not PARTITION.search(name or "")

    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True, "include_object": is_compared}
        context = MigrationContext.configure(connection, opts=options)
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
    assert [revision.revision for revision in script.walk_revisions()][-1] == "0001"


def test_down_leaves_nothing_and_up_makes_the_same_again(database_url: str) -> None:
    before = asyncio.run(definitions(database_url))
    downgrade(database_url, "base")
    between = asyncio.run(definitions(database_url))
    upgrade(database_url)

    assert between == []
    assert asyncio.run(definitions(database_url)) == before
    assert current(database_url) == head()


def test_a_database_without_a_revision_has_none(empty_database_url: str) -> None:
    assert current(empty_database_url) is None


def test_concurrent_migrations_take_turns(empty_database_url: str, tmp_path: Path) -> None:
    def migrate(_: int) -> int:
        return command(tmp_path, "migrate", DATABASE_URL=empty_database_url).returncode

    with ThreadPoolExecutor(3) as pool:
        statuses = list(pool.map(migrate, range(3)))

    assert statuses == [0, 0, 0]
    assert current(empty_database_url) == head()
