"""The feed of a database that was moved to another cluster, or restored to an earlier moment."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from events.test_moved_databases import AGE, move
from support.api import expect_problem
from support.application import Client, running
from support.changes import FEED, Copy, directory, read_all, read_on
from support.servers import PostgresServer
from support.settings import make_settings

pytestmark = pytest.mark.anyio


async def known_users(url: str) -> dict[str, tuple[int, str]]:
    connection: Any = await asyncpg.connect(url)
    users = await directory(connection)
    await connection.close()
    return users


async def live(client: Client, number: int) -> None:
    for _ in range(number):
        path = await client.make()
        await client.patch(path, json={"locale": "fr"})


async def test_a_reader_goes_on_after_a_move_into_a_younger_cluster(
    postgres: PostgresServer, database_url: str, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres.execute(AGE)
    copy = Copy()
    async with running(make_settings(database_url, tmp_path)) as client:
        await live(client, 3)
        items, cursor = await read_on(client)
        copy.apply(items)
        await live(client, 3)
    target = own_postgres.create_database("moved")
    await asyncio.to_thread(move, postgres, database_url, target)

    async with running(make_settings(target, tmp_path)) as client:
        await live(client, 3)
        copy.apply(await read_all(client, cursor))
    assert copy.users == await known_users(target)
    assert len(copy.users) == 9


async def test_a_reader_of_what_a_restore_has_undone_reads_the_list_anew(
    postgres: PostgresServer, database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    early, late = Copy(), Copy()
    async with running(make_settings(database_url, tmp_path)) as client:
        await live(client, 3)
        items, before = await read_on(client)
        early.apply(items)
        await asyncio.to_thread(move, postgres, database_url, empty_database_url)
        await live(client, 3)
        items, undone = await read_on(client)
        late.apply(items)

    async with running(make_settings(empty_database_url, tmp_path)) as client:
        expect_problem(await client.get(FEED, params={"after": undone}), 410, "cursor_gone")
        # As many changes as were undone get their positions, and more.
        for _ in range(3):
            await live(client, 2)
            expect_problem(await client.get(FEED, params={"after": undone}), 410, "cursor_gone")
        fresh = await read_all(client, before)
        early.apply(fresh)
        assert early.users == await known_users(empty_database_url)
        assert not {item["id"] for item in fresh} & late.seen
        anew = Copy()
        anew.apply(await read_all(client))
        assert anew.users == early.users
