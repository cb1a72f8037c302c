"""Values in a Redis that other services share and can write to."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from support.application import running
from support.settings import make_settings
from support.waiting import eventually
from user_service.cache.base import Entry
from user_service.cache.redis import RedisCache

OpenCache = Callable[..., Awaitable[RedisCache]]
MARKED = "Zqxjmarked"


async def test_values_are_shared_between_replicas(redis_url: str, open_redis_cache: OpenCache) -> None:
    one, other = await open_redis_cache(redis_url), await open_redis_cache(redis_url)
    user_id = uuid4()

    await one.put({user_id: Entry(2, False, b"{}")})
    seen = (await other.get([user_id]))[user_id]
    await other.invalidate({user_id: 3})

    assert seen.version == 2
    assert await one.get([user_id]) == {}


@pytest.mark.parametrize("prefix", ["users:", "us[e]rs*?:"])
async def test_clear_leaves_the_keys_of_others(redis_url: str, open_redis_cache: OpenCache, prefix: str) -> None:
    cache, neighbour = await open_redis_cache(redis_url, prefix=prefix), await open_redis_cache(redis_url, prefix="u")
    user_id = uuid4()
    for each in (cache, neighbour):
        await each.put({user_id: Entry(1, False, b"{}")})

    async with Redis.from_url(redis_url) as redis:
        await redis.mset({"session:1": "theirs", "usersuser:1": "theirs", "users:other": "theirs"})
        dropped = await cache.clear()
        theirs = await redis.mget(["session:1", "usersuser:1", "users:other"])

    assert dropped == 1
    assert await cache.get([user_id]) == {}
    assert set(await neighbour.get([user_id])) == {user_id}
    assert theirs == [b"theirs"] * 3


async def test_every_key_ends_by_itself(redis_url: str, open_redis_cache: OpenCache) -> None:
    cache = await open_redis_cache(redis_url, ttl_seconds=100)

    await cache.put({uuid4(): Entry(1, False, b"{}"), uuid4(): Entry(1, False, b"{}")})
    await cache.invalidate({uuid4(): 2})

    async with Redis.from_url(redis_url) as redis:
        lives = [await redis.ttl(key) async for key in redis.scan_iter()]
    assert len(lives) == 3
    assert all(0 < life <= 100 for life in lives)


async def test_markers_outlive_a_slow_read_even_with_a_short_time_to_live(
    redis_url: str, open_redis_cache: OpenCache
) -> None:
    cache = await open_redis_cache(redis_url, ttl_seconds=1)
    user_id = uuid4()

    await cache.invalidate({user_id: 2})

    async with Redis.from_url(redis_url) as redis:
        assert await redis.ttl(cache.key(user_id)) > 1


async def test_nothing_personal_stands_in_redis(database_url: str, redis_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, redis_url=redis_url)) as client:
        path = await client.make(
            email=f"{MARKED}@example.org", given_name=MARKED, phone="+4915112345678", preferences={"note": MARKED}
        )
        await client.get(path)
        await client.patch(path, json={"family_name": f"{MARKED}son"})
        await eventually(lambda: client.is_cached(path))
        response = await client.get(path)
        dump = await dump_values(redis_url)

    assert response.json()["family_name"] == f"{MARKED}son"
    assert len(dump) == 2
    for needle in (MARKED, "4915112345678", "example.org"):
        assert all(needle.lower().encode() not in part.lower() for part in dump)


async def dump_values(redis_url: str) -> list[bytes]:
    """Every key and every value."""
    async with Redis.from_url(redis_url) as redis:
        keys = [key async for key in redis.scan_iter()]
        return [*keys, *await redis.mget(keys)]


def swapped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


@pytest.mark.parametrize(
    "tampered",
    [
        swapped,
        lambda _: b"",
        lambda _: b"garbage",
        lambda _: b"0000000001Lgarbage",
        lambda _: b"0000000001L\x01",
        lambda _: b"\xff" * 40,
        lambda value: value[:10] + b"X" + value[11:],
        lambda value: b"abcdefghij" + value[10:],
        lambda value: b"0000000000" + value[10:],
        lambda value: value[:10] + b"D" + value[11:],
    ],
)
async def test_a_foreign_value_is_no_entry_and_the_next_entry_replaces_it(
    redis_url: str, open_redis_cache: OpenCache, tampered: Callable[[bytes], bytes]
) -> None:
    cache = await open_redis_cache(redis_url)
    user_id = uuid4()
    await cache.put({user_id: Entry(1, False, b"{}")})

    async with Redis.from_url(redis_url) as redis:
        key = cache.key(user_id)
        await redis.set(key, tampered(await redis.get(key)))
    found = await cache.get([user_id])
    await cache.put({user_id: Entry(1, False, b"{}")})

    assert found == {}
    assert set(await cache.get([user_id])) == {user_id}


async def test_a_value_that_was_moved_to_another_user_does_not_open(
    redis_url: str, open_redis_cache: OpenCache
) -> None:
    cache = await open_redis_cache(redis_url)
    mine, theirs = uuid4(), uuid4()
    await cache.put({theirs: Entry(1, False, b"{}")})

    async with Redis.from_url(redis_url) as redis:
        await redis.copy(cache.key(theirs), cache.key(mine))

    assert set(await cache.get([mine, theirs])) == {theirs}
    assert cache.metrics.cache_errors.values == {("decrypt",): 1}


async def test_a_key_of_another_type_does_no_harm(redis_url: str, open_redis_cache: OpenCache) -> None:
    cache = await open_redis_cache(redis_url)
    listed: list[UUID] = [uuid4(), uuid4()]

    async with Redis.from_url(redis_url) as redis:
        for user_id in listed:
            await redis.rpush(cache.key(user_id), "a")
        found = await cache.get(listed)
        await cache.invalidate({listed[0]: 2})
        await cache.clear()
        await cache.put({listed[1]: Entry(2, False, b"{}")})

    assert found == {}
    assert not cache.breaker.is_open
    assert set(await cache.get(listed)) == {listed[1]}
