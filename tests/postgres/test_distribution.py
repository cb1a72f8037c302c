"""Distributed tables: which rows one statement locks, both codes of an error, and what Citus has after --distribute."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from support.citus import CitusDatabase
from user_service.postgres.distribution import (
    DATABASE_SETTINGS,
    DISTRIBUTED,
    Distribution,
    is_deadlock,
    is_unique_violation,
)
from user_service.postgres.failures import is_transient

IDS = sorted(uuid4() for _ in range(100))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


@asynccontextmanager
async def connected(citus: CitusDatabase) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(citus.url)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def coordinator(citus: CitusDatabase) -> AsyncIterator[Any]:
    async with connected(citus) as opened:
        yield opened


async def test_one_server_locks_all_ids_at_once_and_is_asked_once_what_it_is(connection: Any) -> None:
    asked: list[str] = []

    async def fetch(statement: str, *arguments: object) -> list[Any]:
        asked.append(statement)
        rows: list[Any] = await connection.fetch(statement, *arguments)
        return rows

    distribution = Distribution()
    groups = [await distribution.lockable(IDS, fetch) for _ in range(3)]

    assert groups == [[IDS]] * 3
    assert len(asked) == 1


async def test_a_single_id_needs_no_question() -> None:
    async def fetch(statement: str, *arguments: object) -> list[Any]:
        raise AssertionError(statement)

    assert await Distribution().lockable(IDS[:1], fetch) == [IDS[:1]]
    assert await Distribution().lockable([], fetch) == []


@pytest.mark.parametrize(
    ("error", "is_violation"),
    [
        (asyncpg.UniqueViolationError("any"), True),
        (asyncpg.InternalServerError('duplicate key value violates unique constraint "pk_users_102008"'), True),
        (asyncpg.InternalServerError("cache lookup failed for relation 1"), False),
        (asyncpg.CheckViolationError('violates check constraint "ck_users_version_positive"'), False),
    ],
)
def test_a_taken_key_has_two_codes(error: asyncpg.PostgresError, is_violation: bool) -> None:
    assert is_unique_violation(error) is is_violation


@pytest.mark.parametrize(
    ("error", "is_ended"),
    [
        (asyncpg.DeadlockDetectedError("any"), True),
        (asyncpg.InternalServerError("deadlock detected"), True),
        (asyncpg.InternalServerError("cache lookup failed for relation 1"), False),
    ],
)
def test_a_deadlock_has_two_codes_and_may_be_tried_again(error: asyncpg.PostgresError, is_ended: bool) -> None:
    assert is_deadlock(error) is is_transient(error) is is_ended


@pytest.mark.distributed
async def test_citus_locks_shard_by_shard_in_one_order(coordinator: Any) -> None:
    groups = await Distribution().lockable(IDS, coordinator.fetch)
    backwards = await Distribution().lockable(IDS[::-1], coordinator.fetch)

    assert len(groups) > 1
    assert groups == backwards
    assert sorted(user_id for group in groups for user_id in group) == IDS
    for group in groups:
        assert group == sorted(group)
        assert await coordinator.fetch("SELECT id FROM users WHERE id = ANY($1::uuid[]) FOR UPDATE", group) == []
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await coordinator.fetch("SELECT id FROM users WHERE id = ANY($1::uuid[]) FOR UPDATE", IDS)


@pytest.mark.distributed
async def test_citus_has_users_terms_and_changes_of_one_id_side_by_side(coordinator: Any) -> None:
    rows = await coordinator.fetch("SELECT table_name::text, distribution_column, colocation_id FROM citus_tables")
    found = {name: (column, group) for name, column, group in rows}

    assert {name: found[name][0] for name in DISTRIBUTED} == {name: column for name, (column, _) in DISTRIBUTED.items()}
    assert len({found[name][1] for name in ("users", "user_terms", "user_changes")}) == 1
    assert {name for name in found if not name.startswith("user_changes_")} == set(DISTRIBUTED)


@pytest.mark.distributed
async def test_sessions_of_citus_have_its_settings(coordinator: Any) -> None:
    assert [await coordinator.fetchval(f"SHOW {name}") for name, _ in DATABASE_SETTINGS] == [
        value for _, value in DATABASE_SETTINGS
    ]


@pytest.mark.distributed
async def test_citus_names_a_key_that_copy_finds_taken(coordinator: Any) -> None:
    rows = [(1, bytes(16), UUID(int=1))]
    await coordinator.copy_records_to_table("identifiers", records=rows, columns=("kind", "index", "user_id"))
    try:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await coordinator.copy_records_to_table("identifiers", records=rows, columns=("kind", "index", "user_id"))
    finally:
        await coordinator.execute("TRUNCATE identifiers")
    assert is_unique_violation(caught.value)


@pytest.mark.distributed
def test_citus_takes_the_rows_that_are_there_and_a_second_run_changes_nothing(citus: CitusDatabase) -> None:
    async def insert() -> None:
        async with connected(citus) as opened:
            rows = [(1, user_id.bytes, user_id) for user_id in IDS]
            await opened.copy_records_to_table("identifiers", records=rows)
            await opened.executemany("INSERT INTO user_terms VALUES (1, $1)", [(user_id,) for user_id in IDS])

    async def count() -> list[int]:
        async with connected(citus) as opened:
            return [await opened.fetchval(f"SELECT count(*) FROM {table}") for table in ("identifiers", "user_terms")]

    citus.migrate()
    asyncio.run(insert())

    assert [citus.distribute(), citus.distribute()] == [True, False]
    assert asyncio.run(count()) == [100, 100]
    citus.empty()
