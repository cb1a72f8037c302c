"""A reader of the feed has the directory at the end, although replicas are killed while they write and serve it."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from support.api import USERS
from support.changes import FEED, Copy, directory
from support.process import ServiceProcess, serving
from support.settings import API_KEY
from support.waiting import eventually

REPLICAS = 2
KILLS = 8
WRITERS = 6


class Replicas:
    """Processes of the service of which one is killed and replaced now and then."""

    def __init__(self, start: Callable[[], ServiceProcess]) -> None:
        self.start = start
        self.running = [start() for _ in range(REPLICAS)]

    async def call(self, random: Random, method: str, path: str, **options: Any) -> httpx.Response | None:
        """The response of some replica; None when it was killed, or has not started yet."""
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(headers={"X-API-Key": API_KEY}, timeout=60) as client:
                response = await client.request(method, random.choice(self.running).url + path, **options)
                return response if response.status_code < 500 else None
        return None

    async def kill_one(self, random: Random) -> None:
        place = random.randrange(REPLICAS)
        self.running[place].process.kill()
        self.running[place] = await asyncio.to_thread(self.start)


async def write(replicas: Replicas, random: Random, done: asyncio.Event) -> None:
    paths: list[str] = []
    while not done.is_set():
        kind = random.random()
        if kind < 0.2 or not paths:
            body = {"items": [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(20)]}
            response = await replicas.call(random, "POST", f"{USERS}/batch/create", json=body)
            paths += [f"{USERS}/{item['id']}" for item in response.json()["items"]] if response is not None else []
            continue
        path = random.choice(paths)
        if kind < 0.3:
            await replicas.call(random, "DELETE", path, params={"purge": "true"})
        elif kind < 0.5:
            await replicas.call(random, "DELETE", path)
            await replicas.call(random, "POST", f"{path}/restore")
        else:
            await replicas.call(random, "PATCH", path, json={"locale": random.choice(("de", "fr", "it"))})


async def follow(replicas: Replicas, random: Random, copy: Copy, written: asyncio.Event) -> None:
    """Reads to the end of the feed, and on until there is nothing new after the last write."""
    cursor: dict[str, str] = {}
    while True:
        finished = written.is_set()
        query = {"limit": random.choice((10, 1000)), "wait": 0 if finished else 1, **cursor}
        response = await replicas.call(random, "GET", FEED, params=query)
        if response is None:
            continue
        assert response.status_code == 200, response.text
        page = response.json()
        copy.apply(page["items"])
        cursor = {"after": page["next_cursor"]}
        if finished and not page["items"]:
            return


async def test_a_copy_is_the_directory_after_many_kills(database_url: str, tmp_path: Path) -> None:
    random, done, written, copy = Random(16), asyncio.Event(), asyncio.Event(), Copy()
    with ExitStack() as services:
        replicas = Replicas(lambda: services.enter_context(serving(tmp_path, DATABASE_URL=database_url)))
        writers = [asyncio.create_task(write(replicas, random, done)) for _ in range(WRITERS)]
        reader = asyncio.create_task(follow(replicas, random, copy, written))
        for _ in range(KILLS):
            seen = len(copy.seen)

            async def progress(before: int = seen) -> bool:
                return len(copy.seen) > before + 50

            await eventually(progress)
            await replicas.kill_one(random)
        done.set()
        await asyncio.gather(*writers)
        written.set()
        await reader
        connection: Any = await asyncpg.connect(database_url)
        assert copy.users == await directory(connection)
        assert len(copy.seen) == await connection.fetchval("SELECT count(*) FROM user_changes")
        await connection.close()
