"""Readers and writers at once: a read is never older than what was acknowledged before it began."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.application import Client, running
from support.settings import make_settings

OPTIONS: dict[str, dict[str, Any]] = {
    "memory": {},
    "memory with room for one": {"cache_max_bytes": 2000},
    "redis": {"redis": True},
    "none": {"cache": "none"},
}


class User:
    """A user under test, and the newest version that a writer was told of."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.acknowledged = 1


async def write(client: Client, users: list[User], random: Random, *, times: int) -> None:
    for number in range(times):
        user = random.choice(users)
        response = await client.patch(user.path, json={"metadata": {"number": number, "by": random.random()}})
        assert response.status_code == 200, response.text
        user.acknowledged = max(user.acknowledged, response.json()["version"])


async def read(client: Client, users: list[User], random: Random, done: asyncio.Event) -> int:
    reads = 0
    while not done.is_set():
        user = random.choice(users)
        least = user.acknowledged
        headers = {"Cache-Control": "no-cache"} if random.random() < 0.1 else {}
        response = await client.get(user.path, headers=headers)
        assert response.json()["version"] >= least
        assert response.headers["etag"] == f'"{response.json()["version"]}"'
        reads += 1
        await asyncio.sleep(0)
    return reads


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
async def test_a_read_is_never_older_than_the_last_acknowledged_write(
    database_url: str, redis_url: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    chosen = {"redis_url": redis_url} if options.get("redis") else options
    async with running(make_settings(database_url, tmp_path, **chosen)) as client:
        users = [User(await client.make()) for _ in range(3)]
        done = asyncio.Event()
        readers = [asyncio.create_task(read(client, users, Random(seed), done)) for seed in range(6)]
        await asyncio.gather(*(write(client, users, Random(100 + seed), times=25) for seed in range(3)))
        done.set()
        reads = await asyncio.gather(*readers)
        last = [(await client.get(user.path)).json()["version"] for user in users]

    assert min(reads) > 0
    assert last == [user.acknowledged for user in users]
    assert sum(last) == len(users) + 75


async def suspend_and_activate(client: Client, users: list[User], random: Random, *, times: int) -> None:
    for _ in range(times):
        user = random.choice(users)
        changed = [await client.post(f"{user.path}/{what}") for what in ("suspend", "activate", "login")]
        assert {response.status_code for response in changed} <= {200, 204, 409}
        versions = [response.json()["version"] for response in changed if response.status_code == 200]
        user.acknowledged = max([user.acknowledged, *versions])


async def read_pages(client: Client, users: list[User], random: Random, done: asyncio.Event) -> int:
    """Pages of one status: a page shows no user of another one, and each in its place."""
    pages = 0
    while not done.is_set():
        least = {user.path.rsplit("/", 1)[1]: user.acknowledged for user in users}
        status, sort = random.choice(["active", "suspended"]), random.choice(["created_at", "-created_at"])
        shown = (await client.get("/api/v1/users", params={"status": status, "sort": sort})).json()["items"]
        everyone = (await client.get("/api/v1/users", params={"sort": "updated_at"})).json()["items"]
        assert all(user["status"] == status and user["version"] >= least[user["id"]] for user in shown)
        assert shown == sorted(shown, key=lambda user: user["id"], reverse=sort == "-created_at")
        assert {user["id"] for user in everyone} == least.keys()
        assert all(user["version"] >= least[user["id"]] for user in everyone)
        pages += 1
        await asyncio.sleep(0)
    return pages


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
async def test_a_page_is_never_older_than_the_last_acknowledged_write(
    database_url: str, redis_url: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    chosen = {"redis_url": redis_url} if options.get("redis") else options
    async with running(make_settings(database_url, tmp_path, **chosen)) as client:
        users = [User(await client.make()) for _ in range(4)]
        done = asyncio.Event()
        readers = [asyncio.create_task(read(client, users, Random(seed), done)) for seed in range(3)]
        page_readers = [asyncio.create_task(read_pages(client, users, Random(50 + seed), done)) for seed in range(3)]
        await asyncio.gather(*(suspend_and_activate(client, users, Random(100 + seed), times=15) for seed in range(2)))
        done.set()
        pages = await asyncio.gather(*page_readers)
        await asyncio.gather(*readers)

    assert min(pages) > 0
