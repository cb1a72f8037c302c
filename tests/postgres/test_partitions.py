"""The change log by month: partitions are made ahead, rows without one are kept, and expired months are dropped."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from support.api import USERS
from support.application import Client, running
from support.changes import read_all
from support.process import command
from support.settings import make_settings
from support.waiting import eventually
from user_service.events.feed_watch import PARTITIONS_RETRY_SECONDS
from user_service.postgres.partitions import MONTHS_AHEAD, PARTITIONED, create_partitions, drop_partitions

PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1"
CHANGE = """
INSERT INTO user_changes (user_id, version, type, status, changed, actor, request_id, traceparent, changed_at, event_id)
VALUES ($1, $2, 'updated', 'active', '{}', 'a', 'a request', '', $3::text::timestamptz, gen_random_uuid())
"""
WHERE = "SELECT tableoid::regclass::text FROM user_changes WHERE user_id = $1 ORDER BY version"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def partitions(database: Any) -> list[str]:
    return [name for (name,) in await database.fetch(PARTITIONS)]


async def drop_all_months(database: Any) -> None:
    for name in await partitions(database):
        if not name.endswith("_default"):
            await database.execute(f"DROP TABLE {name}")


async def started_up(client: Client) -> None:
    """Waits until the start has made the partitions that were missing."""

    async def done() -> bool:
        return client.resources.feed_watch.partitions_due > monotonic() + PARTITIONS_RETRY_SECONDS

    await eventually(done)


async def test_this_month_and_the_next_ones_have_partitions(database: Any) -> None:
    months = await database.fetch(
        "SELECT to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month', '_YYYY_MM')"
        f" FROM generate_series(0, {MONTHS_AHEAD}) n"
    )
    expected = [table + ending for table in PARTITIONED for ending in (*(month for (month,) in months), "_default")]

    assert await partitions(database) == sorted(expected)


async def test_migrate_prune_and_the_start_make_missing_ones(database: Any, database_url: str, tmp_path: Path) -> None:
    whole = await partitions(database)
    for name in ("migrate", "prune"):
        await drop_all_months(database)
        assert command(tmp_path, name, DATABASE_URL=database_url).returncode == 0
        assert await partitions(database) == whole
    await drop_all_months(database)
    async with running(make_settings(database_url, tmp_path)) as client:
        await client.make()

        async def complete() -> bool:
            return await partitions(database) == whole

        await eventually(complete)


async def test_a_change_of_a_month_without_a_partition_is_kept_and_moved(
    database: Any, database_url: str, tmp_path: Path
) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        await started_up(client)
        await drop_all_months(database)
        path = await client.make()
        user_id = UUID(path[-36:])
        assert {name for (name,) in await database.fetch(WHERE, user_id)} == {"user_changes_default"}
        await create_partitions(database.fetch)
        (name,) = {name for (name,) in await database.fetch(WHERE, user_id)}
        assert name[:-7] == "user_changes_"
        await client.patch(path, json={"locale": "fr"})
        trail = (await client.get(f"{path}/audit")).json()["items"]
    assert [item["version"] for item in trail] == [1, 2]


async def test_no_change_fails_while_the_partition_of_its_month_is_made(
    database: Any, database_url: str, tmp_path: Path
) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        await started_up(client)
        for number in range(10):
            await drop_all_months(database)
            paths = await asyncio.gather(*(client.make() for _ in range(3)))

            async def patch(path: str, locale: str) -> int:
                return (await client.patch(path, json={"locale": locale})).status_code

            changing = [asyncio.create_task(patch(path, f"a{letter}")) for path in paths for letter in "abcdefgh"]
            await asyncio.sleep(0.002 * number)
            await create_partitions(client.resources.pool.fetch)
            assert set(await asyncio.gather(*changing)) == {200}


async def test_months_are_those_of_utc_and_hold_their_bounds(database: Any) -> None:
    await database.execute("SET timezone = 'Pacific/Auckland'; SET datestyle = 'German'")
    user_id = uuid4()
    times = ("2020-01-31T23:59:59.999999Z", "2020-02-01T00:00:00Z", "2020-02-29T23:59:59.999999Z", "2020-12-31T23:59Z")
    for version, time in enumerate(times, 1):
        await database.execute(CHANGE, user_id, version, time)
    await create_partitions(database.fetch)

    months = [name.removeprefix("user_changes_") for (name,) in await database.fetch(WHERE, user_id)]
    assert months == ["2020_01", "2020_02", "2020_02", "2020_12"]
    assert await drop_partitions(database.fetch, days=365) == (3, [])
    assert await database.fetch(WHERE, user_id) == []


async def test_many_make_them_at_once(database: Any, database_url: str) -> None:
    whole = await partitions(database)
    await drop_all_months(database)
    await database.execute(CHANGE, uuid4(), 1, "2020-01-01T00:00:00Z")

    async def make() -> None:
        connection = await asyncpg.connect(database_url)
        await create_partitions(connection.fetch)
        await connection.close()

    await asyncio.gather(*(make() for _ in range(8)))
    assert await partitions(database) == sorted([*whole, "user_changes_2020_01"])


async def test_a_locked_month_stays_and_changes_go_on(database: Any, database_url: str, tmp_path: Path) -> None:
    await database.execute(CHANGE, uuid4(), 1, "2020-01-01T00:00:00Z")
    await create_partitions(database.fetch)
    backup = await asyncpg.connect(database_url)
    reading = backup.transaction()
    await reading.start()
    await backup.fetch("SELECT count(*) FROM user_changes")
    async with running(make_settings(database_url, tmp_path)) as client:
        pool = client.resources.pool
        dropping = asyncio.create_task(drop_partitions(pool.fetch, days=365, attempts=1))
        changes = [await client.post(USERS, json={"email": f"{n}@example.org"}) for n in range(50)]
        assert {response.status_code for response in changes} == {201}
        assert await dropping == (0, ["2020-01"])
        await database.execute(CHANGE, uuid4(), 1, "2020-02-01T00:00:00Z")
        await create_partitions(pool.fetch, attempts=1)
        assert "user_changes_2020_02" not in await partitions(database)
        await reading.rollback()
        await backup.close()
        await create_partitions(pool.fetch)
        assert await drop_partitions(pool.fetch, days=365) == (2, [])


async def test_prune_says_which_month_is_locked(database: Any, database_url: str, tmp_path: Path) -> None:
    await database.execute(CHANGE, uuid4(), 1, "2020-01-01T00:00:00Z")
    await create_partitions(database.fetch)
    async with database.transaction():
        await database.fetch("SELECT count(*) FROM user_changes")
        done = await asyncio.to_thread(command, tmp_path, "prune", DATABASE_URL=database_url)
    assert done.returncode == 1
    assert "2020-01" in done.stderr
    assert "prune" in done.stderr


async def test_an_erasure_reaches_every_partition(database: Any, database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        path = await client.make()
        user_id, other = UUID(path[-36:]), uuid4()
        for version, time in ((100, "2020-01-01T00:00:00Z"), (101, "2021-01-01T00:00:00Z")):
            await database.execute(CHANGE, user_id, version, time)
            await database.execute(CHANGE, other, version, time)
            if version == 100:
                await create_partitions(database.fetch)
        assert (await client.post(f"{path}/erase")).status_code == 204
        trail = (await client.get(f"{path}/audit")).json()["items"]
    assert [item["version"] for item in trail] == [1, 2, 100, 101]
    assert {item["request_id"] for item in trail if item["version"] != 2} == {None}
    kept = await database.fetch("SELECT request_id FROM user_changes WHERE user_id = $1", other)
    assert [request_id for (request_id,) in kept] == ["a request"] * 2


async def test_a_role_that_does_not_own_the_tables_is_told_so(database: Any, database_url: str, tmp_path: Path) -> None:
    await database.execute(CHANGE, uuid4(), 1, "2020-01-01T00:00:00Z")
    await database.execute(
        "DO $$ BEGIN IF to_regrole('guest') IS NULL THEN CREATE ROLE guest LOGIN; END IF; END $$;"
        " GRANT ALL ON ALL TABLES IN SCHEMA public TO guest"
    )
    as_guest = database_url.replace("postgres@", "guest@", 1)
    for name in ("prune", "migrate"):
        refused = await asyncio.to_thread(command, tmp_path, name, DATABASE_URL=as_guest)
        assert refused.returncode == 1
        assert "owner" in refused.stderr
    async with running(make_settings(as_guest, tmp_path)) as client:
        await started_up(client)
        path = await client.make()
        await eventually(lambda: is_sequenced(database))
        assert [item["user_id"] for item in await read_all(client)] == [path[-36:]]


async def is_sequenced(database: Any) -> bool:
    return not await database.fetchval("SELECT count(*) FROM feed_queue")
