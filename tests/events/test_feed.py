"""`GET /users/changes`: every committed change once, in each user's order, whatever else is open in the database."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from support.api import USERS, expect_fault, expect_problem
from support.application import Client, running
from support.changes import FEED, Copy, directory, read_all, read_on
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually
from user_service.events.feed import CHANGE_ID, READ, SEQUENCED_CHANGES
from user_service.events.feed_places import select_places
from user_service.postgres.partitions import create_partitions, drop_partitions
from user_service.postgres.pool import connect_options
from user_service.settings import Settings

pytestmark = pytest.mark.distributed


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_each_kind_of_change_is_in_the_feed_once_and_in_order(client: Client) -> None:
    path = await client.make(given_name="Ada")
    await client.patch(path, json={"given_name": "Grace"})
    await client.post(f"{path}/suspend")
    await client.delete(path)
    await client.post(f"{path}/restore")
    await client.post(f"{path}/erase")
    await client.delete(f"{path}?purge=true")
    other = await client.make()

    page = (await client.get(FEED)).json()

    kinds = ["created", "updated", "status_changed", "deleted", "restored", "erased", "purged", "created"]
    assert [item["type"] for item in page["items"]] == kinds
    assert [item["version"] for item in page["items"]] == [1, 2, 3, 4, 5, 6, 7, 1]
    assert {item["user_id"] for item in page["items"]} == {path[-36:], other[-36:]}
    assert page["items"][1]["changed"] == ["given_name"]
    trail = (await client.get(f"{path}/audit")).json()["items"]
    for change, item in zip(trail, page["items"], strict=False):
        names = ("id", "version", "type", "status", "changed", "actor")
        assert {name: item[name] for name in names} == {name: change[name] for name in names}
        assert item["time"] == change["changed_at"]


async def test_pages_follow_each_other_and_the_last_one_repeats_its_cursor(client: Client) -> None:
    empty = (await client.get(FEED)).json()
    assert empty["items"] == []
    paths = [await client.make() for _ in range(5)]
    cursor, seen = empty["next_cursor"], []
    for size in (2, 2, 1, 0):
        page = (await client.get(FEED, params={"after": cursor, "limit": 2})).json()
        assert len(page["items"]) == size
        seen += [item["user_id"] for item in page["items"]]
        last, cursor = cursor, page["next_cursor"]
    assert last == cursor
    assert seen == [path[-36:] for path in paths]


async def test_one_type_passes_over_the_others(client: Client) -> None:
    paths = [await client.make() for _ in range(3)]
    start = (await client.get(FEED)).json()["next_cursor"]
    for path in paths:
        await client.patch(path, json={"locale": "fr"})
    await client.delete(paths[1])
    await client.patch(paths[0], json={"locale": "de"})

    items, cursor = await read_on(client, type="deleted")
    assert [(item["user_id"], item["type"]) for item in items] == [(paths[1][-36:], "deleted")]
    assert await read_all(client, cursor) == []
    assert len(await read_all(client, start, type="updated", limit=1)) == 4
    assert (await client.get(FEED, params={"type": "erased"})).json()["next_cursor"] == cursor


async def test_a_batch_is_in_the_feed_in_its_order_also_beyond_one_round(client: Client) -> None:
    for start in range(0, SEQUENCED_CHANGES + 1500, 500):
        items = [{"data": {"email": f"{n}@example.org"}} for n in range(start, start + 500)]
        assert (await client.post(f"{USERS}/batch/create", json={"items": items})).status_code == 200
    copy = Copy()
    copy.apply(await read_all(client))
    assert len(copy.users) == SEQUENCED_CHANGES + 1500


async def test_wrong_parameters_and_cursors_are_refused(client: Client) -> None:
    for query in ("limit=0", "limit=1001", "wait=21", "wait=-1", "type=moved", "cursor=x", "after=a&after=b"):
        assert (await client.get(f"{FEED}?{query}")).status_code == 422
    expect_fault(await client.get(f"{FEED}?wait=x"), "?wait")
    cursor = (await client.get(FEED)).json()["next_cursor"]
    for text in ("x", cursor[:-2] + "AA", cursor + "A"):
        expect_problem(await client.get(FEED, params={"after": text}), 400, "invalid_cursor")
    listed = (await client.get(f"{USERS}?limit=1")).json()["next_cursor"]
    assert listed is None


async def test_open_transactions_in_any_database_hide_nothing_and_delay_nothing(
    client: Client, database: Any, database_url: str, postgres: PostgresServer
) -> None:
    elsewhere = await asyncpg.connect(postgres.url("postgres"))
    other = elsewhere.transaction()
    await other.start()
    await elsewhere.fetchval("SELECT pg_current_xact_id()")
    first = await client.make()
    # A change of this database that is not committed: a user's row stays locked, its change unseen.
    path = await client.make()
    holder = await asyncpg.connect(database_url)
    held = holder.transaction()
    await held.start()
    changed = UUID(path[-36:])
    at = await holder.fetchval(
        "UPDATE users SET version = 2, status = 'suspended' WHERE id = $1 RETURNING updated_at", changed
    )
    await holder.execute(
        "INSERT INTO user_changes VALUES ($1, 2, 'status_changed', 'suspended', '{status}', 'a', '', '', $2, $3)",
        changed,
        at,
        uuid4(),
    )
    await holder.execute(
        "INSERT INTO feed_queue (changed_at, user_ids, versions) VALUES ($2, ARRAY[$1::uuid], ARRAY[2])", changed, at
    )
    later = [await client.make() for _ in range(5)]
    copy = Copy()
    items, cursor = await read_on(client)
    copy.apply(items)
    assert [item["user_id"] for item in items] == [each[-36:] for each in (first, path, *later)]

    await held.commit()
    items, _ = await read_on(client, cursor)
    copy.apply(items)
    assert [(item["user_id"], item["version"]) for item in items] == [(path[-36:], 2)]
    assert copy.users == await directory(database)
    await other.rollback()
    await holder.close()
    await elsewhere.close()


async def test_many_writers_and_sequencers_lose_nothing(database: Any, database_url: str, tmp_path: Path) -> None:
    """Four services over one database, each with its own sequencer, while readers follow."""
    rng = random.Random(1)
    async with (
        running(make_settings(database_url, tmp_path / "a")) as one,
        running(make_settings(database_url, tmp_path / "a")) as two,
        running(make_settings(database_url, tmp_path / "a")) as three,
    ):
        clients = (one, two, three)
        paths = [await client.make() for client in clients for _ in range(4)]
        copies, done = [Copy() for _ in range(3)], asyncio.Event()

        async def write() -> None:
            for number in range(25):
                client, path = rng.choice(clients), rng.choice(paths)
                if number % 5 == 0:
                    items = [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(40)]
                    await client.post(f"{USERS}/batch/create", json={"items": items})
                elif number % 5 == 1:
                    await client.delete(path)
                    await client.post(f"{path}/restore")
                else:
                    await client.patch(path, json={"locale": rng.choice(("de", "fr", "it", "en"))})

        async def follow(client: Client, copy: Copy) -> None:
            cursor = None
            while True:
                finished = done.is_set()
                items, cursor = await read_on(client, cursor, limit=rng.choice((1, 7, 1000)))
                copy.apply(items)
                if finished:
                    return

        reading = [asyncio.create_task(follow(*pair)) for pair in zip(clients, copies, strict=True)]
        await asyncio.gather(*(write() for _ in range(8)))
        done.set()
        await asyncio.gather(*reading)
        expected = await directory(database)
    for copy in copies:
        assert copy.users == expected
    places = await database.fetch(select_places("0", "1000000", limit="1000000"))
    changes = await database.fetchval("SELECT count(*) FROM user_changes")
    assert [place["position"] for place in places] == list(range(1, changes + 1))


async def test_a_reader_that_waits_is_answered_by_a_change_of_any_replica(
    client: Client, database_url: str, tmp_path: Path
) -> None:
    cursor = (await client.get(FEED)).json()["next_cursor"]
    async with running(make_settings(database_url, tmp_path / "other")) as other:
        for writer in (client, other):
            query = {"after": cursor, "wait": 20}
            waiting = [asyncio.create_task(client.get(FEED, params=query)) for _ in range(6)]
            await waiters(client, 6)
            assert client.resources.metrics.requests.in_flight == 0
            # Only the task of the feed uses one, now and then.
            assert client.resources.pool.stats.active <= 1
            path = await writer.make()
            for response in await asyncio.gather(*waiting):
                page = response.json()
                assert [item["user_id"] for item in page["items"]] == [path[-36:]]
            cursor = page["next_cursor"]
    assert client.resources.metrics.requests.in_flight == 0


@pytest.mark.one_server
async def test_a_reader_is_answered_while_partitions_can_not_be_made(
    database: Any, database_url: str, tmp_path: Path
) -> None:
    await database.execute("DROP TABLE feed_default")
    async with running(make_settings(database_url, tmp_path)) as client:
        waiting = asyncio.create_task(client.get(FEED, params={"wait": 20}))
        await waiters(client, 1)
        path = await client.make()
        assert [item["user_id"] for item in (await waiting).json()["items"]] == [path[-36:]]


async def test_a_reader_of_one_type_waits_for_that_type(client: Client) -> None:
    path = await client.make()
    waiting = asyncio.create_task(client.get(FEED, params={"type": "deleted", "wait": 20}))
    await waiters(client, 1)
    await client.patch(path, json={"locale": "fr"})
    await client.delete(path)
    assert [item["type"] for item in (await waiting).json()["items"]] == ["deleted"]


async def test_a_wait_ends_with_an_empty_page(client: Client) -> None:
    cursor = (await client.get(FEED)).json()["next_cursor"]
    page = (await client.get(FEED, params={"after": cursor, "wait": 1})).json()
    assert page == {"items": [], "next_cursor": cursor}
    durations = client.resources.metrics.requests.series[("GET", FEED, 200)]
    assert durations.total < 1.0


async def test_a_stop_answers_the_readers_that_wait(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        waiting = [asyncio.create_task(client.get(FEED, params={"wait": 20})) for _ in range(3)]
        await waiters(client, 3)
        client.resources.feed_watch.end_waits()
        assert [(await response).json()["items"] for response in waiting] == [[], [], []]


async def test_more_readers_than_the_limit_are_refused(client: Client) -> None:
    client.resources.feed_watch.max_waiters = 2
    waiting = [asyncio.create_task(client.get(FEED, params={"wait": 20})) for _ in range(2)]
    await waiters(client, 2)
    expect_problem(await client.get(FEED, params={"wait": 20}), 503, "overloaded")
    assert (await client.get(FEED)).status_code == 200
    await client.make()
    assert {(await response).status_code for response in waiting} == {200}


async def test_readers_that_wait_take_no_place_of_other_requests(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, max_in_flight=1)) as client:
        waiting = []
        for number in range(1, 4):
            waiting.append(asyncio.create_task(client.get(FEED, params={"wait": 20})))
            await waiters(client, number)
        scrape = (await client.get("/metrics")).text
        assert "\nuser_feed_waiters 3.0\n" in scrape
        await client.make()
        assert [(await response).status_code for response in waiting] == [200, 200, 200]


async def waiters(client: Client, number: int) -> None:
    async def reached() -> bool:
        return client.resources.feed_watch.waiters == number

    await eventually(reached)


AGE = """
WITH aged AS (UPDATE user_changes SET changed_at = '2020-01-15' WHERE user_id = $1 RETURNING user_id, version)
UPDATE feed f SET changed_at = '2020-01-15' FROM aged a WHERE f.user_id = a.user_id AND f.version = a.version
"""


async def test_a_cursor_older_than_what_is_kept_is_gone(client: Client, database: Any) -> None:
    start = (await client.get(FEED)).json()["next_cursor"]
    old = [await client.make() for _ in range(3)]
    _, at_floor = await read_on(client, start)
    kept = await client.make()
    within = (await client.get(FEED, params={"limit": 2})).json()["next_cursor"]
    _, end = await read_on(client)
    for path in old:
        await database.execute(AGE, UUID(path[-36:]))
    await create_partitions(database.fetch)
    assert await drop_partitions(database.fetch, days=365) == (1, [])

    for cursor in (start, within):
        expect_problem(await client.get(FEED, params={"after": cursor}), 410, "cursor_gone")
    for cursor in (None, at_floor):
        assert [item["user_id"] for item in await read_all(client, cursor)] == [kept[-36:]]
    assert await read_all(client, end) == []
    await database.execute(AGE, UUID(kept[-36:]))
    await create_partitions(database.fetch)
    assert await drop_partitions(database.fetch, days=365) == (1, [])
    assert await read_all(client, end) == await read_all(client) == []
    await client.make()
    assert len(await read_all(client, end)) == 1


@pytest.mark.one_server
async def test_the_indexes_are_used_also_by_plans_from_when_the_feed_was_empty(settings: Settings) -> None:
    connection = await asyncpg.connect(**connect_options(settings))
    await connection.execute("ANALYZE feed, user_changes")
    await connection.execute(f"PREPARE page (bigint, bigint, bigint, text) AS {READ}")
    await connection.execute(f"PREPARE one (bigint) AS {CHANGE_ID}")
    for _ in range(6):
        await connection.fetch("EXECUTE page(0, 10, 10, NULL)")
        await connection.fetch("EXECUTE one(0)")
    for statement in ("EXECUTE page(0, 10, 10, NULL)", "EXECUTE one(0)"):
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}"))
        assert "Seq Scan on feed_2" not in plan
        assert "Seq Scan on user_changes" not in plan
        assert "Subplans Removed" in plan or "Index Scan using user_changes_default_pkey" in plan
    await connection.close()


async def test_the_status_counts_the_changes_that_wait_while_the_sequencer_is_held_up(
    client: Client, database: Any
) -> None:
    async def read_state() -> Any:
        return (await client.get("/api/v1/status")).json()["feed"]

    items = [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(3)]
    await client.make()
    await client.get(FEED)
    before = await read_state()
    async with database.transaction():
        await database.execute("SELECT FROM feed_state FOR UPDATE")
        assert (await client.post(f"{USERS}/batch/create", json={"items": items})).status_code == 200
        held = await read_state()
    await client.get(FEED)

    assert before == {"last_position": 1, "waiting": 0, "oldest_seconds": None}
    assert (held["last_position"], held["waiting"]) == (1, 3)
    assert held["oldest_seconds"] >= 0
    assert await read_state() == {"last_position": 4, "waiting": 0, "oldest_seconds": None}


async def test_the_feed_needs_its_scope(client: httpx.AsyncClient) -> None:
    expect_problem(await client.get(FEED, headers={"X-API-Key": ""}), 401, "unauthenticated")
