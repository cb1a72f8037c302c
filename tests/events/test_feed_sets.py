"""Rows of the feed with the changes of a set: readers see each change at its position, as with a row for each."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from support.api import USERS, expect_problem, unique_email
from support.application import Client, running
from support.changes import FEED, read_all, read_on
from support.settings import make_settings
from user_service.events.feed import READ
from user_service.events.feed_places import select_places
from user_service.postgres.migrations import downgrade, upgrade
from user_service.postgres.partitions import create_partitions, drop_partitions
from user_service.users.repository import QUEUED_CHANGES

SIZES = (1, 7, QUEUED_CHANGES, 1, QUEUED_CHANGES + 40, 2)
ALL = select_places("0", "1000000", limit="1000000")
# What release 0.1.0 runs on the feed, without the change of each row.
FORMER_SEQUENCE = """
WITH state AS MATERIALIZED (
  SELECT position FROM feed_state WHERE EXISTS (SELECT FROM feed_queue) FOR UPDATE
), taken AS (
  DELETE FROM feed_queue RETURNING seq, changed_at, user_ids, versions
), numbered AS (
  SELECT t.*, sum(t.changes) OVER (ORDER BY t.seq) - t.changes AS before
  FROM (SELECT *, cardinality(user_ids) AS changes FROM taken) t
), added AS (
  INSERT INTO feed (position, user_id, version, changed_at)
  SELECT state.position + n.before + c.place, c.user_id, c.version, n.changed_at
  FROM state, numbered n, unnest(n.user_ids, n.versions) WITH ORDINALITY AS c(user_id, version, place)
)
UPDATE feed_state SET position = state.position + total.changes
FROM state, (SELECT sum(changes) AS changes FROM numbered) total WHERE total.changes IS NOT NULL
"""
FORMER_READ = "SELECT position, user_id, version, changed_at FROM feed ORDER BY position"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def make_sets(client: Client) -> list[str]:
    """The ids of users that were made in batches of SIZES, and then changed in batches of twice the size, in order."""
    ids: list[str] = []
    for size in SIZES:
        items: list[dict[str, Any]] = [{"data": {"email": unique_email()}} for _ in range(size)]
        made = (await client.post(f"{USERS}/batch/create", json={"items": items})).json()["items"]
        ids += [item["id"] for item in made]
    items = [{"id": user_id, "data": {"locale": "fr"}} for user_id in ids]
    assert (await client.post(f"{USERS}/batch/update", json={"items": items})).status_code == 200
    return [*ids, *ids]


@pytest.mark.distributed
@pytest.mark.parametrize("has_sets", [True, False])
async def test_pages_may_begin_and_end_within_a_set(client: Client, database: Any, *, has_sets: bool) -> None:
    await database.execute("UPDATE feed_state SET has_sets = $1", has_sets)
    ids = await make_sets(client)

    for limit in (1, 10, QUEUED_CHANGES, 1000):
        items = await read_all(client, limit=limit)
        assert [item["user_id"] for item in items] == ids
        assert [item["version"] for item in items] == [1] * (len(ids) // 2) + [2] * (len(ids) // 2)
    for change_type, version in (("created", 1), ("updated", 2)):
        some = await read_all(client, type=change_type, limit=11)
        expected = [(user_id, version) for user_id in ids[: len(ids) // 2]]
        assert [(item["user_id"], item["version"]) for item in some] == expected
    rows = await database.fetchval("SELECT count(*) FROM feed")
    assert (rows < len(ids) / 10) == has_sets


@pytest.mark.one_server
async def test_a_page_reads_the_rows_of_its_changes_and_no_others(client: Client, database: Any) -> None:
    for _ in range(20):
        items = [{"data": {"email": unique_email()}} for _ in range(QUEUED_CHANGES)]
        await client.post(f"{USERS}/batch/create", json={"items": items})
    await client.get(FEED)

    for start, limit, sets in ((0, 1, 1), (QUEUED_CHANGES - 1, 2, 2), (QUEUED_CHANGES * 10, QUEUED_CHANGES, 1)):
        places = select_places(str(start), str(start + limit), limit=str(limit))
        (plan,) = orjson.loads(await database.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {places}"))
        (unnested,) = [node for node in nodes(plan["Plan"]) if node["Node Type"] == "Function Scan"]
        assert unnested["Actual Loops"] == sets
        assert len(await database.fetch(READ, start, limit, limit, None)) == limit


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of a plan."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


async def test_a_cursor_within_a_set_of_a_dropped_month_is_gone(client: Client, database: Any) -> None:
    items = [{"data": {"email": unique_email()}} for _ in range(3)]
    await client.post(f"{USERS}/batch/create", json={"items": items})
    _, at_floor = await read_on(client)
    within = (await client.get(FEED, params={"limit": 2})).json()["next_cursor"]
    for table in ("feed", "user_changes"):
        await database.execute(f"UPDATE {table} SET changed_at = '2020-01-15'")
    kept = await client.make()
    await create_partitions(database.fetch)

    assert await drop_partitions(database.fetch, days=365) == (1, [])

    expect_problem(await client.get(FEED, params={"after": within}), 410, "cursor_gone")
    for cursor in (None, at_floor):
        assert [item["user_id"] for item in await read_all(client, cursor)] == [kept[-36:]]


@pytest.mark.one_server
async def test_a_migration_down_and_up_keeps_each_place(client: Client, database: Any, database_url: str) -> None:
    await make_sets(client)
    items, _ = await read_on(client)
    before = await database.fetch(ALL)

    await asyncio.to_thread(downgrade, database_url, "0002")
    former = await database.fetch(FORMER_READ)
    await asyncio.to_thread(upgrade, database_url)
    await database.reload_schema_state()

    assert former == before == await database.fetch(ALL)
    assert [row["position"] for row in before] == list(range(1, len(items) + 1))
    assert await read_all(client) == items


@pytest.mark.one_server
async def test_the_former_release_reads_and_sequences_on_a_database_that_it_has_made(
    empty_database_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(upgrade, empty_database_url, "0002")
    await asyncio.to_thread(upgrade, empty_database_url)
    database = await asyncpg.connect(empty_database_url)
    async with running(make_settings(empty_database_url, tmp_path)) as client:
        ids = await make_sets(client)
        await client.get(FEED)
        former = await database.fetch(FORMER_READ)
        await database.execute(
            "INSERT INTO feed_queue (changed_at, user_ids, versions)"
            " SELECT changed_at, ARRAY[user_id], ARRAY[version] FROM user_changes LIMIT 1"
        )
        await database.execute(FORMER_SEQUENCE)
        items = await read_all(client)
    await database.close()

    assert [str(row["user_id"]) for row in former] == ids
    assert [item["user_id"] for item in items] == [*ids, items[-1]["user_id"]]
