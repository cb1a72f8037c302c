"""Purges of users that were deleted long ago, as `user-service prune` makes them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest

from support.batch_service import BatchService, creation
from user_service.users.deleted_retention import purge_deleted

pytestmark = pytest.mark.anyio


async def make_deleted(service: BatchService, count: int) -> list[str]:
    """The ids of users, in order, whose creations are stored responses, one each; deleted ten days ago."""
    ids = []
    for _ in range(count):
        response = await service.batch("create", [creation()], key=str(uuid4()))
        ids += [item["id"] for item in response.json()["items"]]
    await service.batch("delete", [{"id": user_id} for user_id in ids])
    await service.database.execute("UPDATE users SET deleted_at = deleted_at - interval '10 days'")
    return sorted(ids)


async def purge(service: BatchService) -> int:
    resources = service.client.application.resources
    return await purge_deleted(resources.open_services().database, days=7, actor_names=resources.actor_names)


@asynccontextmanager
async def transaction(service: BatchService) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of the test, which is rolled back."""
    async with service.database.acquire() as connection:
        started = connection.transaction()
        await started.start()
        try:
            yield connection
        finally:
            await started.rollback()


async def test_many_users_are_purged_with_as_many_statements_as_few(service: BatchService) -> None:
    statements: list[str] = []

    @contextmanager
    def record(sql: str) -> Iterator[None]:
        statements.append(sql)
        yield

    service.client.application.resources.open_services().database.primary.traced = record
    counts = []
    for count in (2, 30):
        await make_deleted(service, count)
        statements.clear()
        assert await purge(service) == count
        counts.append(len(statements))

    assert counts[0] == counts[1]


async def test_stored_responses_of_many_users_are_locked_in_one_order(service: BatchService) -> None:
    """The order of their keys, whatever the order of the users is: no two purges or erasures wait for each other."""
    await make_deleted(service, 12)
    keys = await service.database.fetch("SELECT id FROM idempotency_keys")
    first, *others = sorted(row["id"] for row in keys)
    async with transaction(service) as connection:
        await connection.execute("SELECT FROM idempotency_keys WHERE id = $1 FOR UPDATE", first)
        purging = asyncio.create_task(purge(service))
        await service.wait_for_lock_waiters()
        free = await connection.fetch(
            "SELECT id FROM idempotency_keys WHERE id = ANY ($1::bytea[]) FOR UPDATE SKIP LOCKED", others
        )

    assert len(free) == len(others)
    assert await purging == 12


@pytest.mark.one_server
async def test_a_purge_that_postgresql_gave_up_is_run_again(service: BatchService) -> None:
    ids = await make_deleted(service, 2)
    while not await lose_deadlock(service, ids):
        ids = await make_deleted(service, 2)

    metrics = service.client.application.resources.metrics
    assert metrics.database_errors.values[("DeadlockDetectedError",)] == 1
    assert await service.count("users") == 0
    purged = await service.database.fetch("SELECT user_id FROM user_changes WHERE type = 'purged'")
    assert {row["user_id"] for row in purged} >= set(map(UUID, ids))


async def lose_deadlock(service: BatchService, ids: Sequence[str]) -> bool:
    """Purges these users, and causes a deadlock. Returns whether PostgreSQL gave up the purge, not the test."""
    lock = "SELECT FROM users WHERE id = $1 FOR UPDATE"
    try:
        async with transaction(service) as connection:
            await connection.execute(lock, ids[1])
            purging = asyncio.create_task(purge(service))
            await service.wait_for_lock_waiters()
            await connection.execute(lock, ids[0])
    except asyncpg.DeadlockDetectedError:
        await purging
        return False
    assert await purging == 2
    return True
