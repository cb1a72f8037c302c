"""Redis paused, killed, restarted and never there: the answers stay right, and it is used again when it is back."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from running import Client, eventually, running, settings_of
from servers import RedisServer
from user_service.cache.base import Entry
from user_service.cache.redis import MAX_OWED, RedisCache

# A guard against hangs only: a read without its Redis takes a few budgets of 50 ms.
GUARD_SECONDS = 20


def errors(client: Client) -> float:
    """The reads' own failures, without those of the task that waits for Redis."""
    counted = client.resources.metrics.cache_errors.values
    return counted.get(("get",), 0) + counted.get(("fill",), 0)


async def name_at(client: Client, path: str) -> str:
    async with asyncio.timeout(GUARD_SECONDS):
        answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["given_name"])


async def ready(client: Client) -> tuple[int, str]:
    answer = await client.get("/api/health/ready")
    return answer.status_code, answer.json()["status"]


async def is_ready(client: Client) -> bool:
    return await ready(client) == (200, "ok")


async def is_degraded(client: Client) -> bool:
    return await ready(client) == (200, "degraded")


async def test_a_paused_redis_delays_nothing_for_long_and_is_used_again_when_it_goes_on(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    # Without room in the process, so that every read asks Redis.
    async with running(settings_of(database_url, tmp_path, redis_url=own_redis.url, cache_max_bytes=0)) as client:
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


async def test_a_change_while_redis_is_paused_is_seen_by_every_replica_once_it_goes_on(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    settings = settings_of(database_url, tmp_path, redis_url=own_redis.url)
    async with running(settings) as one, running(settings) as other:
        paths = [await one.make(given_name="old") for _ in range(5)]
        for path in paths:
            await eventually(partial(one.is_cached, path))
        own_redis.pause()
        for path in paths:
            assert (await one.patch(path, json={"given_name": "new"})).status_code == 200
        owed = (await one.get("/api/v1/cache")).json()["owed"]
        own_redis.resume()
        seen_at_once = await asyncio.gather(*(name_at(one, path) for path in paths * 4))
        await eventually(lambda: is_ready(one))
        await eventually(lambda: is_ready(other))
        seen_by_other = [await name_at(other, path) for path in paths]
        still_owed = (await one.get("/api/v1/cache")).json()["owed"]

    assert owed == 5
    assert seen_at_once == ["new"] * 20
    assert seen_by_other == ["new"] * 5
    assert still_owed == 0


async def test_a_service_that_stops_tells_redis_what_it_still_owes(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    settings = settings_of(database_url, tmp_path, redis_url=own_redis.url)
    async with running(settings) as other:
        async with running(settings) as one:
            # The first is on its way into the paused Redis; the second is not even sent.
            paths = [await one.make(given_name="old") for _ in range(2)]
            for path in paths:
                await eventually(partial(one.is_cached, path))
            own_redis.pause()
            for path in paths:
                await one.patch(path, json={"given_name": "new"})
            own_redis.resume()

        assert [await name_at(other, path) for path in paths] == ["new", "new"]


async def test_redis_killed_and_restarted_under_traffic_never_shows_an_old_value(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    async with running(settings_of(database_url, tmp_path, redis_url=own_redis.url)) as client:
        path = await client.make(metadata={"count": 0})
        acknowledged = 0
        done = asyncio.Event()

        async def write() -> None:
            nonlocal acknowledged
            for count in range(1, 41):
                answer = await client.patch(path, json={"metadata": {"count": count}})
                assert answer.status_code == 200, answer.text
                acknowledged = answer.json()["version"]
            done.set()

        async def read() -> None:
            while not done.is_set():
                least = acknowledged
                answer = await client.get(path)
                assert answer.status_code == 200
                assert answer.json()["version"] >= least
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


async def test_a_redis_that_comes_back_with_old_values_is_not_believed(
    own_redis: RedisServer, open_redis_cache: Callable[..., Awaitable[RedisCache]]
) -> None:
    cache = await open_redis_cache(own_redis.url)
    user_id = uuid4()
    await cache.fill({user_id: Entry(1, False, b"old")})
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
    async with running(settings_of(database_url, tmp_path, redis_url=url)) as client:
        path = await client.make(given_name="Ada")
        name = await name_at(client, path)
        await client.patch(path, json={"given_name": "Augusta"})
        renamed = await name_at(client, path)
        health = await client.get("/api/health/ready")

    assert (name, renamed) == ("Ada", "Augusta")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["checks"] == {"database": "ok", "redis": "unavailable"}


async def test_a_clear_while_redis_is_away_is_made_up_for(
    own_redis: RedisServer, open_redis_cache: Callable[..., Awaitable[RedisCache]]
) -> None:
    cache = await open_redis_cache(own_redis.url)
    user_id = uuid4()
    await cache.fill({user_id: Entry(1, False, b"{}")})
    own_redis.pause()
    dropped = await cache.clear()
    own_redis.resume()

    await eventually(cache.ping)

    assert dropped == 0
    assert await cache.get([user_id]) == {}


async def test_too_many_debts_become_one_of_everything(
    own_redis: RedisServer, open_redis_cache: Callable[..., Awaitable[RedisCache]]
) -> None:
    cache = await open_redis_cache(own_redis.url, budget_seconds=1)
    ids = [uuid4() for _ in range(30)]
    await cache.fill({user_id: Entry(1, False, b"{}") for user_id in ids})
    own_redis.pause()
    await cache.invalidate(dict.fromkeys(ids, 2))
    await cache.invalidate({UUID(int=number): 2 for number in range(MAX_OWED)})
    owed = len(cache.owed)
    own_redis.resume()

    await eventually(cache.ping)

    assert owed == 0
    assert await cache.get(ids) == {}
