"""Reads in two statements, as on Citus: they return what one statement does, and wait for changes that are missing.

They run on one PostgreSQL too, where a missing change is one that the test has moved away.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from support.application import Client
from support.changes import FEED, read_all
from user_service.events import distributed_reads, feed, outbox
from user_service.events.types import PendingChange

PARTITIONS = range(16)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def make_changes(client: Client, database: Any) -> list[UUID]:
    """Three users with two changes each, which have positions; the ids of the users."""
    paths = [await client.make() for _ in range(3)]
    for path in paths:
        await client.patch(path, json={"given_name": "Grace"})
    await client.application.resources.feed.sequence()
    return [UUID(path[-36:]) for path in paths]


async def hide_changes(database: Any, user_id: UUID) -> list[Any]:
    """Removes a user's changes from the change log, and returns them."""
    rows: list[Any] = await database.fetch("DELETE FROM user_changes WHERE user_id = $1 RETURNING *", user_id)
    return rows


async def show_changes(database: Any, rows: list[Any]) -> None:
    await database.copy_records_to_table("user_changes", records=rows)


async def read_feed(
    database: Any, after: int | None = None, change_type: str | None = None, scanned: int = 100
) -> list[Any]:
    return await distributed_reads.read_feed(after, scanned, 100, change_type, database.fetch)


async def read_outbox(database: Any) -> list[PendingChange]:
    rows = [row for partition in PARTITIONS for row in await database.fetch(outbox.PENDING, partition)]
    return await distributed_reads.read_pending(rows, database.fetch)


@pytest.mark.parametrize("after", [None, 0, 2, 6])
@pytest.mark.parametrize("scanned", [1, 3, 100])
@pytest.mark.parametrize("change_type", [None, "updated", "purged"])
async def test_the_feed_is_the_same_in_two_statements(
    client: Client, database: Any, after: int | None, change_type: str | None, scanned: int
) -> None:
    await make_changes(client, database)

    (expected, found) = (
        await database.fetch(feed.READ, after, scanned, 100, change_type),
        await read_feed(database, after, change_type, scanned),
    )

    names = list(expected[0].keys())
    assert [[row.get(name) for name in names] for row in found] == [list(row) for row in expected]
    assert await distributed_reads.find_change_id(2, database.fetch) == list(
        map(tuple, await database.fetch(feed.CHANGE_ID, 2))
    )


async def test_the_feed_ends_before_a_change_that_is_missing(client: Client, database: Any) -> None:
    first, second, third = await make_changes(client, database)
    hidden = await hide_changes(database, second)

    rows = await read_feed(database)
    assert [(row["user_id"], row["last_position"]) for row in rows] == [(first, 1)]
    await show_changes(database, hidden)
    rows = await read_feed(database, 1)
    assert [row["user_id"] for row in rows] == [second, third, first, second, third]


async def test_pages_of_one_type_meet_each_change_once(
    client: Client, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_changes(client, database)
    client.application.resources.pool.distribution.known = True
    monkeypatch.setattr(feed, "SCANNED_CHANGES", 3)

    assert [item["version"] for item in await read_all(client, type="updated")] == [2, 2, 2]


async def test_a_reader_waits_for_a_change_that_is_missing(client: Client, database: Any) -> None:
    first, second, third = await make_changes(client, database)
    resources = client.application.resources
    resources.pool.distribution.known = True
    cursor = (await client.get(FEED, params={"limit": 1})).json()["next_cursor"]
    hidden = await hide_changes(database, second)
    statements: list[str] = []

    def traced(statement: str) -> AbstractContextManager[None]:
        statements.append(statement)
        return nullcontext()

    resources.pool.traced = traced
    page = (await client.get(FEED, params={"after": cursor, "wait": 1})).json()
    assert page == {"items": [], "next_cursor": cursor}
    # It looks ten times a second, not as often as it can.
    assert statements.count(distributed_reads.POSITIONS) < 30

    waiting = asyncio.create_task(client.get(FEED, params={"after": cursor, "wait": 20}))
    await show_changes(database, hidden)
    page = (await waiting).json()
    assert [UUID(item["user_id"]) for item in page["items"]] == [second, third, first, second, third]


async def test_the_outbox_is_the_same_in_two_statements(client: Client, database: Any) -> None:
    await make_changes(client, database)

    expected = [PendingChange(*row) for partition in PARTITIONS for row in await database.fetch(outbox.READ, partition)]
    assert len(expected) == 6
    assert await read_outbox(database) == expected


async def test_an_event_waits_for_its_change(client: Client, database: Any) -> None:
    first, second, third = await make_changes(client, database)
    hidden = await hide_changes(database, second)

    assert {change.user_id for change in await read_outbox(database)} == {first, third}
    await show_changes(database, hidden)
    assert {change.user_id for change in await read_outbox(database)} == {first, second, third}


async def test_an_event_whose_change_is_no_longer_kept_has_expired(client: Client, database: Any) -> None:
    _, second, _ = await make_changes(client, database)
    await hide_changes(database, second)
    await database.execute("UPDATE outbox SET changed_at = now() - interval '8 days' WHERE user_id = $1", second)

    expected = [PendingChange(*row) for partition in PARTITIONS for row in await database.fetch(outbox.READ, partition)]
    assert {change.user_id for change in expected if change.changed_at.year == 1970} == {second}
    assert await read_outbox(database) == expected
