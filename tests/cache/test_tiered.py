"""The cache of a replica in front of Redis: what others change is dropped, and nothing is believed for long."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from support.servers import RedisServer
from support.waiting import eventually
from user_service.cache.base import MAX_STALENESS_SECONDS, Entry
from user_service.cache.memory import MemoryCache
from user_service.cache.redis import RedisCache, connect
from user_service.cache.tiered import TieredCache
from user_service.postgres.clock import DatabaseClock

OpenTieredCache = Callable[..., Awaitable[TieredCache]]
OpenRedisCache = Callable[..., Awaitable[RedisCache]]


def fresh(version: int = 1) -> Entry:
    return Entry(version, False, b'{"version":%d}' % version)


async def holds(cache: TieredCache, user_id: UUID) -> bool:
    return cache.get_local(str(user_id)) is not None


async def lacks(cache: TieredCache, user_id: UUID) -> bool:
    return not await holds(cache, user_id)


async def is_deaf(cache: TieredCache) -> bool:
    return not cache.is_subscribed


async def is_subscribed(cache: TieredCache) -> bool:
    return cache.is_subscribed


async def test_a_value_from_redis_is_in_memory_from_then_on(redis_url: str, open_tiered_cache: OpenTieredCache) -> None:
    one, other = await open_tiered_cache(redis_url), await open_tiered_cache(redis_url)
    user_id = uuid4()

    await one.put({user_id: fresh()})
    before = await holds(other, user_id)
    await other.get([user_id])

    assert not before
    assert await holds(one, user_id)
    assert await holds(other, user_id)


async def test_an_invalidation_reaches_the_other_replicas(redis_url: str, open_tiered_cache: OpenTieredCache) -> None:
    one, other = await open_tiered_cache(redis_url), await open_tiered_cache(redis_url)
    changed, neighbour = uuid4(), uuid4()
    await other.put({changed: fresh(), neighbour: fresh()})

    await one.invalidate({changed: 2})
    await eventually(lambda: lacks(other, changed))
    await other.put({changed: fresh()})

    assert await lacks(other, changed), "a reader who was too slow brought it back"
    assert await holds(other, neighbour)


async def test_a_clear_reaches_the_other_replicas(redis_url: str, open_tiered_cache: OpenTieredCache) -> None:
    one, other = await open_tiered_cache(redis_url), await open_tiered_cache(redis_url)
    user_id = uuid4()
    await other.put({user_id: fresh()})

    await one.clear()

    await eventually(lambda: lacks(other, user_id))
    assert await other.get([user_id]) == {}


@pytest.mark.parametrize("told", [b"x", b"x" * 21, b"garbage of another service"])
async def test_what_is_not_understood_drops_everything(
    redis_url: str, open_tiered_cache: OpenTieredCache, told: bytes
) -> None:
    cache = await open_tiered_cache(redis_url)
    user_id = uuid4()
    await cache.put({user_id: fresh()})

    async with Redis.from_url(redis_url) as redis:
        await redis.publish(cache.shared.channel, told)

    await eventually(lambda: lacks(cache, user_id))
    assert cache.is_subscribed


async def test_a_cut_subscription_empties_the_replica_and_it_subscribes_again(
    own_redis: RedisServer, open_tiered_cache: OpenTieredCache
) -> None:
    cache = await open_tiered_cache(own_redis.url)
    user_id = uuid4()
    await cache.put({user_id: fresh()})

    own_redis.command("CLIENT KILL TYPE pubsub")
    await eventually(lambda: is_deaf(cache))
    await cache.put({user_id: fresh()})
    while_deaf = await holds(cache, user_id)
    still_shared = set(await cache.shared.get([user_id]))
    await eventually(lambda: is_subscribed(cache))
    await cache.put({user_id: fresh()})

    assert not while_deaf
    assert still_shared == {user_id}
    assert await holds(cache, user_id)


async def test_a_redis_that_falls_silent_is_noticed(own_redis: RedisServer, open_tiered_cache: OpenTieredCache) -> None:
    cache = await open_tiered_cache(own_redis.url)
    user_id = uuid4()
    await cache.put({user_id: fresh()})

    own_redis.pause()
    await eventually(lambda: is_deaf(cache))
    own_redis.resume()

    assert await lacks(cache, user_id)
    await eventually(lambda: is_subscribed(cache))


async def test_an_entry_older_than_the_subscription_is_not_stored(
    redis_url: str, open_tiered_cache: OpenTieredCache
) -> None:
    cache = await open_tiered_cache(redis_url)
    older, younger = uuid4(), uuid4()

    await cache.put(
        {
            older: Entry(1, False, b"{}", cache.subscribed_since - 0.001),
            younger: Entry(1, False, b"{}", cache.subscribed_since),
        }
    )

    assert await lacks(cache, older)
    assert await holds(cache, younger)
    assert set(await cache.get([older, younger])) == {older, younger}


async def test_a_value_whose_invalidation_was_lost_is_not_used_for_long(
    redis_url: str, open_tiered_cache: OpenTieredCache
) -> None:
    """As after a replica that ended between commit and invalidation, or a Redis that lost its last writes."""
    writer = await open_tiered_cache(redis_url, ttl_seconds=3)
    reader = await open_tiered_cache(redis_url, ttl_seconds=3)
    user_id = uuid4()
    await writer.put({user_id: fresh()})
    key = writer.shared.key(user_id)

    async with Redis.from_url(redis_url) as redis:
        lost = await redis.get(key)
        await writer.invalidate({user_id: 2})
        await redis.set(key, lost)
        believed = set(await reader.get([user_id]))
        await eventually(lambda: believes_nothing(reader, user_id))
        still_there = await redis.get(key)

    assert believed == {user_id}
    assert still_there == lost
    assert await writer.get([user_id]) == {}


async def believes_nothing(cache: TieredCache, user_id: UUID) -> bool:
    return await cache.get([user_id]) == {}


async def test_an_entry_does_not_live_longer_for_passing_through_redis(
    redis_url: str, open_redis_cache: OpenRedisCache
) -> None:
    cache = await open_redis_cache(redis_url)
    user_id = uuid4()
    read_at = monotonic() - 7

    await cache.put({user_id: Entry(1, False, b"{}", read_at)})
    found = (await cache.get([user_id]))[user_id]

    assert found.as_of <= read_at


async def test_without_a_clock_redis_is_not_asked(redis_url: str, open_redis_cache: OpenRedisCache) -> None:
    cache = await open_redis_cache(redis_url)
    cache_without_clock = await open_redis_cache(redis_url, clock=DatabaseClock())
    user_id = uuid4()
    await cache.put({user_id: fresh()})

    found = await cache_without_clock.get([user_id])
    await cache_without_clock.put({uuid4(): fresh()})

    assert found == {}
    async with Redis.from_url(redis_url) as redis:
        assert await redis.dbsize() == 1


def test_two_replicas_never_take_an_old_entry_for_a_young_one() -> None:
    """Each is told the time somewhere between question and answer, and their own clocks have nothing in common."""
    database_lead_seconds = {"writer": 1_000.0, "reader": -5_000.0}
    for asked, answered in ((0.0, 0.0), (0.3, 0.0), (0.0, 0.3), (0.2, 0.1)):
        now = monotonic()
        writer, reader = DatabaseClock(), DatabaseClock()
        writer.observe(now - asked, now + database_lead_seconds["writer"])
        reader.observe(now - answered, now + database_lead_seconds["reader"])
        true_at = now + 10

        stamp = writer.to_database_time(true_at)
        moment = reader.to_monotonic(stamp)

        assert stamp <= true_at + database_lead_seconds["writer"]
        assert moment <= true_at + database_lead_seconds["writer"] - database_lead_seconds["reader"]


def test_no_tier_keeps_an_entry_for_as_long_as_is_promised() -> None:
    assert MAX_STALENESS_SECONDS < 5


async def test_closing_ends_the_subscription(redis_url: str, open_tiered_cache: OpenTieredCache) -> None:
    cache = await open_tiered_cache(redis_url)

    await cache.close()

    assert cache.subscription is not None
    assert cache.subscription.done()
    assert not cache.is_subscribed
    await eventually(lambda: has_no_listener(redis_url, cache.shared.channel))


class Stubborn(TieredCache):
    """Hears nothing, over a client that makes an error of its own out of a cancellation."""

    async def receive_messages(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError from None


async def test_closing_does_not_wait_for_a_client_that_swallows_cancellations(
    redis_url: str, open_redis_cache: OpenRedisCache
) -> None:
    local = MemoryCache(max_bytes=1000, ttl_seconds=60, read_seconds=6)
    cache = Stubborn(local, await open_redis_cache(redis_url), connect(redis_url, retries=0))
    cache.open()
    await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await cache.close()

    assert cache.subscription is not None
    assert cache.subscription.done()


async def has_no_listener(redis_url: str, channel: str) -> bool:
    async with Redis.from_url(redis_url) as redis:
        ((_, listeners),) = await redis.pubsub_numsub(channel)
        return not listeners
