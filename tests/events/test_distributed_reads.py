"""Reads in two statements, as on Citus: they return what one statement does, and wait for changes that are missing.

They run on one PostgreSQL too, where a missing change is one that the test has moved away.
"""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from support.application import Client
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


async def read_feed(database: Any, after: int | None = None, change_type: str | None = None) -> list[Any]:
    return await distributed_reads.read_feed(after, 100, 100, change_type, database.fetch)


async def read_outbox(database: Any) -> list[PendingChange]:
    rows = [row for partition in PARTITIONS for row in await database.fetch(outbox.PENDING, partition)]
    return await distributed_reads.read_pending(rows, database.fetch)


@pytest.mark.parametrize("after", [None, 2, 6])
@pytest.mark.parametrize("change_type", [None, "updated", "purged"])
async def test_the_feed_is_the_same_in_two_statements(
    client: Client, database: Any, after: int | None, change_type: str | None
) -> None:
    await make_changes(client, database)

    (expected, found) = (
        await database.fetch(feed.READ, after, 100, 100, change_type),
        await read_feed(database, after, change_type),
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
