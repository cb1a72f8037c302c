"""Redis paused, killed, restarted and never there: the answers stay right, and it is used again when it is back."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import product
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest

from support.application import Client, running
from support.servers import RedisServer
from support.settings import make_settings
from support.waiting import eventually
from user_service.cache.base import MAX_STALENESS_SECONDS, Entry
from user_service.cache.redis import RedisCache
from user_service.resilience.circuit_breaker import FAILURES_TO_OPEN

# A guard against hangs only: a read without its Redis takes a few budgets of 50 ms.
GUARD_SECONDS = 20
PROMISED_SECONDS = 5.0


def errors(client: Client) -> float:
    """The reads' own failures, without those of the task that waits for Redis."""
    counted = client.resources.metrics.cache_errors.values
    return counted.get(("get",), 0) + counted.get(("put",), 0)


async def name_at(client: Client, path: str) -> str:
    async with asyncio.timeout(GUARD_SECONDS):
        response = await client.get(path)
    assert response.status_code == 200, response.text
    return str(response.json()["given_name"])


async def ready(client: Client) -> tuple[int, str]:
    response = await client.get("/api/health/ready")
    return response.status_code, response.json()["status"]


async def is_ready(client: Client) -> bool:
    return await ready(client) == (200, "ok")


async def is_degraded(client: Client) -> bool:
    return await ready(client) == (200, "degraded")


async def test_a_paused_redis_delays_nothing_for_long_and_is_used_again_when_it_goes_on(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    # Without room in the process, so that every read asks Redis.
    async with running(make_settings(database_url, tmp_path, redis_url=own_redis.url, cache_max_bytes=0)) as client:
        path = await client.make(given_name="Ada")
        await eventually(lambda: client.is_cached(path))
        before = errors(client)
        own_redis.pause()
        names = [await name_at(client, path) for _ in range(20)]
        counted = errors(client) - before
        await eventually(lambda: is_degraded(client))
        own_redis.resume()

        await eventually(lambda: is_ready(client))
        await eventually(lambda: client.is_cached(path))

    assert names == ["Ada"] * 20
    assert 1 <= counted <= 3, "later reads were not kept away from it"


async def seconds_behind(client: Client, path: str, changed_at: float) -> float:
    """How long after its change a read still returned the old name."""
    behind, asked_at = 0.0, monotonic()
    while await name_at(client, path) == "old":
        behind = asked_at - changed_at
        await asyncio.sleep(0.05)
        asked_at = monotonic()
    return behind


@pytest.mark.parametrize("writer_stops", [False, True])
async def test_a_change_that_redis_missed_is_seen_by_the_writer_at_once_and_by_others_within_five_seconds(
    database_url: str, own_redis: RedisServer, tmp_path: Path, writer_stops: bool
) -> None:
    settings = make_settings(database_url, tmp_path, redis_url=own_redis.url)
    async with AsyncExitStack() as replicas:
        other = await replicas.enter_async_context(running(settings))
        writer = await replicas.enter_async_context(running(settings))
        # The circuit breaker opens after three failures, so the last two invalidations are not even sent.
        paths = [await writer.make(given_name="old") for _ in range(5)]
        for client, path in product((writer, other), paths):
            await eventually(partial(client.is_cached, path))
        own_redis.pause()
        changed_at = monotonic()
        for path in paths:
            assert (await writer.patch(path, json={"given_name": "new"})).status_code == 200
        own_redis.resume()
        seen_by_writer = await asyncio.gather(*(name_at(writer, path) for path in paths * 4))
        if writer_stops:
            await writer.application.stop()
        behind = await asyncio.gather(*(seconds_behind(other, path, changed_at) for path in paths))
        await eventually(lambda: is_ready(other))

    assert seen_by_writer == ["new"] * 20
    assert max(behind) < PROMISED_SECONDS


async def test_redis_killed_and_restarted_under_traffic_never_shows_an_old_value(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    async with running(make_settings(database_url, tmp_path, redis_url=own_redis.url)) as client:
        path = await client.make(metadata={"count": 0})
        acknowledged = 0
        done = asyncio.Event()

        async def write() -> None:
            nonlocal acknowledged
            for count in range(1, 41):
                response = await client.patch(path, json={"metadata": {"count": count}})
                assert response.status_code == 200, response.text
                acknowledged = response.json()["version"]
            done.set()

        async def read() -> None:
            while not done.is_set():
                least = acknowledged
                response = await client.get(path)
                assert response.status_code == 200
                assert response.json()["version"] >= least
                await asyncio.sleep(0)

        async def disturb() -> None:
            for _ in range(2):
                await asyncio.sleep(0.1)
                own_redis.stop()
                await asyncio.sleep(0.1)
                own_redis.start()

        async with asyncio.timeout(60):
            await asyncio.gather(write(), disturb(), *(read() for _ in range(4)))
        await eventually(lambda: is_ready(client))
        await eventually(lambda: client.is_cached(path))


async def test_old_values_of_a_redis_that_comes_back_are_not_used(
    own_redis: RedisServer, open_redis_cache: Callable[..., Awaitable[RedisCache]]
) -> None:
    cache = await open_redis_cache(own_redis.url)
    user_id = uuid4()
    await cache.put({user_id: Entry(1, False, b"old")})
    own_redis.command("SAVE")
    await cache.invalidate({user_id: 2})
    own_redis.stop()
    own_redis.start()

    await eventually(cache.ping)
    raw = await cache.redis.get(cache.key(user_id))

    assert raw is not None
    assert await cache.get([user_id]) == {}


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1/0", "unix:///nowhere/redis.sock", "redis://no-such-host.invalid:6379"]
)
async def test_a_redis_that_is_not_there_at_the_start_degrades_and_no_more(
    database_url: str, tmp_path: Path, url: str
) -> None:
    async with running(make_settings(database_url, tmp_path, redis_url=url)) as client:
        path = await client.make(given_name="Ada")
        name = await name_at(client, path)
        await client.patch(path, json={"given_name": "Augusta"})
        renamed = await name_at(client, path)
        health = await client.get("/api/health/ready")

    assert (name, renamed) == ("Ada", "Augusta")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["checks"] == {"database": "ok", "redis": "unavailable"}


async def test_an_invalidation_that_redis_missed_is_not_undone_by_what_redis_still_has(
    own_redis: RedisServer, open_redis_cache: Callable[..., Awaitable[RedisCache]]
) -> None:
    cache = await open_redis_cache(own_redis.url, budget_seconds=0.5)
    ids = [uuid4() for _ in range(30)]
    await cache.put({user_id: Entry(1, False, b"old") for user_id in ids})
    own_redis.pause()
    for _ in range(FAILURES_TO_OPEN):
        await cache.ping()
    await cache.invalidate(dict.fromkeys(ids, 2))
    own_redis.resume()
    await eventually(cache.ping)

    raw = await cache.redis.mget([cache.key(user_id) for user_id in ids])
    await cache.put({user_id: Entry(1, False, b"old") for user_id in ids})

    assert {value[:10] for value in raw} == {b"0000000001"}
    assert await cache.get(ids) == {}


async def test_what_a_clear_could_not_drop_expires_by_itself(
    own_redis: RedisServer, open_redis_cache: Callable[..., Awaitable[RedisCache]]
) -> None:
    cache = await open_redis_cache(own_redis.url, ttl_seconds=MAX_STALENESS_SECONDS)
    user_id = uuid4()
    entry = Entry(1, False, b"{}")
    await cache.put({user_id: entry})
    own_redis.pause()
    dropped = await cache.clear()
    own_redis.resume()

    used_until = monotonic()
    while await cache.get([user_id]):
        used_until = monotonic()
        await asyncio.sleep(0.05)

    assert dropped == 0
    assert used_until - entry.as_of < PROMISED_SECONDS
    assert cache.metrics.cache_errors.values[("clear",)] == 1
