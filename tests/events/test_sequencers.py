"""Many sequencers at once give each committed change one position, without gaps, in each user's order."""

import asyncio
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg

from user_service.events.feed import READ, SEQUENCE
from user_service.postgres.pool import connect_options
from user_service.settings import Settings

WRITERS = 8
SEQUENCERS = 8
CHANGES = 150
WRITE = """
WITH logged AS (
  INSERT INTO user_changes
    (user_id, version, type, status, changed, actor, request_id, traceparent, changed_at, event_id)
  VALUES ($1, $2, 'updated', 'active', '{}', 'a', '', '', clock_timestamp(), gen_random_uuid()) RETURNING changed_at
)
INSERT INTO feed_queue (changed_at, user_ids, versions) SELECT changed_at, ARRAY[$1]::uuid[], ARRAY[$2]::integer[]
FROM logged
"""


async def test_positions_have_no_gaps_and_no_change_is_lost(settings: Settings) -> None:
    random, written = Random(16), asyncio.Event()
    users = [uuid4() for _ in range(20)]

    async def connect() -> Any:
        return await asyncpg.connect(**connect_options(settings))

    connection = await connect()
    await connection.execute("CREATE TABLE versions (id uuid PRIMARY KEY, version integer NOT NULL)")
    await connection.executemany("INSERT INTO versions VALUES ($1, 0)", [(user,) for user in users])

    async def write() -> None:
        own = await connect()
        for _ in range(CHANGES):
            user = random.choice(users)
            async with own.transaction():
                version = await own.fetchval(
                    "UPDATE versions SET version = version + 1 WHERE id = $1 RETURNING version", user
                )
                await own.execute(WRITE, user, version)
                # Transactions are committed in another order than their numbers.
                await asyncio.sleep(random.choice((0, 0, 0, 0.01)))
        await own.close()

    async def sequence() -> None:
        own = await connect()
        while not written.is_set():
            await own.fetch(SEQUENCE)
            await asyncio.sleep(random.uniform(0, 0.003))
        await own.close()

    async def follow() -> dict[Any, int]:
        own, position, versions = await connect(), 0, dict.fromkeys(users, 0)
        while True:
            finished = written.is_set()
            rows = [row for row in await own.fetch(READ, position, 100, 100, None) if row["position"] is not None]
            for row in rows:
                assert row["position"] == position + 1
                assert row["version"] == versions[row["user_id"]] + 1
                position, versions[row["user_id"]] = row["position"], row["version"]
            if finished and not rows:
                await own.close()
                return versions

    reading = [asyncio.create_task(follow()) for _ in range(2)]
    sequencing = [asyncio.create_task(sequence()) for _ in range(SEQUENCERS)]
    await asyncio.gather(*(write() for _ in range(WRITERS)))
    await connection.fetch(SEQUENCE)
    while await connection.fetchval("SELECT count(*) FROM feed_queue"):
        await connection.fetch(SEQUENCE)
    written.set()
    await asyncio.gather(*sequencing)
    expected = dict(await connection.fetch("SELECT id, version FROM versions"))
    assert sum(expected.values()) == WRITERS * CHANGES
    for seen in await asyncio.gather(*reading):
        assert seen == expected
    await connection.close()
