from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic, time
from typing import Any

import pytest

from support.settings import ENCRYPTION_KEY
from support.waiting import eventually
from user_service.cache.base import Cache, NoCache
from user_service.cache.memory import MemoryCache
from user_service.cache.redis import RedisCache, connect
from user_service.cache.tiered import TieredCache
from user_service.encryption.cipher import Cipher
from user_service.observability.metrics import Metrics
from user_service.postgres.clock import DatabaseClock
from user_service.values.encryption_keys import parse_encryption_keys

OpenRedisCache = Callable[..., Awaitable[RedisCache]]
OpenTieredCache = Callable[..., Awaitable[TieredCache]]


def running_clock() -> DatabaseClock:
    """A clock that has just asked a database on this machine."""
    clock = DatabaseClock()
    clock.observe(monotonic(), time())
    return clock


@pytest.fixture
async def open_redis_cache() -> AsyncIterator[OpenRedisCache]:
    """Makes caches over a Redis and closes them; each has time enough on a busy machine, and metrics of its own."""
    opened: list[RedisCache] = []

    async def open_cache(
        url: str,
        *,
        prefix: str = "users:",
        ttl_seconds: float = 60,
        budget_seconds: float = 30,
        clock: DatabaseClock | None = None,
    ) -> RedisCache:
        cipher = Cipher(parse_encryption_keys(ENCRYPTION_KEY))
        options: dict[str, Any] = {"ttl_seconds": ttl_seconds, "read_seconds": 6, "budget_seconds": budget_seconds}
        clock = clock or running_clock()
        cache = RedisCache(url, prefix=prefix, cipher=cipher, metrics=Metrics(), clock=clock, **options)
        opened.append(cache)
        return cache

    yield open_cache
    for cache in opened:
        await cache.close()


@pytest.fixture
async def open_tiered_cache(open_redis_cache: OpenRedisCache) -> AsyncIterator[OpenTieredCache]:
    """Makes caches in front of a Redis, each of a replica of its own, subscribed to the others, and closes them."""
    opened: list[TieredCache] = []

    async def open_cache(url: str, *, ttl_seconds: float = 60) -> TieredCache:
        local = MemoryCache(max_bytes=1_000_000, ttl_seconds=ttl_seconds, read_seconds=6)
        shared = await open_redis_cache(url, ttl_seconds=ttl_seconds)
        cache = TieredCache(local, shared, connect(url, retries=0))
        opened.append(cache)
        cache.open()
        await eventually(lambda: is_subscribed(cache))
        return cache

    yield open_cache
    for cache in opened:
        await cache.close()


async def is_subscribed(cache: TieredCache) -> bool:
    return cache.is_subscribed


@pytest.fixture(params=["none", "memory", "redis", "tiered"])
async def cache(
    request: pytest.FixtureRequest,
    redis_url: str,
    open_redis_cache: OpenRedisCache,
    open_tiered_cache: OpenTieredCache,
) -> Cache:
    """Each of the caches."""
    if request.param == "none":
        return NoCache()
    if request.param == "memory":
        return MemoryCache(max_bytes=1_000_000, ttl_seconds=60, read_seconds=6)
    if request.param == "redis":
        return await open_redis_cache(redis_url)
    return await open_tiered_cache(redis_url)
