"""PostgreSQL gone in the middle: 503 with Retry-After, never 500, never a hang, and no restart needed afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from support.api import USERS
from support.application import Client, running
from support.postgres_faults import end_sessions, frozen, stopped
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually

READY = "/api/health/ready"
# A guard against hangs: DATABASE_TIMEOUT is 1 s here, a connection is waited for 3 s.
GUARD_SECONDS = 30

Ask = Callable[[Client, str], Coroutine[Any, Any, httpx.Response]]
REQUESTS: dict[str, Ask] = {
    "read": lambda client, path: client.get(path),
    "list": lambda client, _: client.get(USERS),
    "create": lambda client, _: client.post(USERS, json={"email": "new@example.org"}),
    "update": lambda client, path: client.patch(path, json={"given_name": "Ada"}),
    "upsert": lambda client, _: client.put(f"{USERS}/by-external-id/x", json={"email": "up@example.org"}),
    "login": lambda client, path: client.post(f"{path}/login"),
    "delete": lambda client, path: client.delete(path),
    "warm": lambda client, _: client.post("/api/v1/cache/warm"),
}


@pytest.fixture
async def client(spare_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    """Without a cache, so that each read asks the database."""
    async with running(make_settings(spare_url, tmp_path, cache="none", database_timeout=1)) as client:
        yield client


async def ask_everything(client: Client, path: str) -> dict[str, httpx.Response]:
    async with asyncio.timeout(GUARD_SECONDS):
        responses = await asyncio.gather(*(ask(client, path) for ask in REQUESTS.values()))
    return dict(zip(REQUESTS, responses, strict=True))


def expect_unavailable(responses: dict[str, httpx.Response]) -> None:
    for name, response in responses.items():
        assert (name, response.status_code) == (name, 503), response.text
        assert response.json()["code"] == "database_unavailable"
        assert 1 <= int(response.headers["retry-after"]) <= 60


async def is_well(client: Client) -> bool:
    responses = [await client.get(USERS), await client.post(USERS, json={"email": "a@b"}), await client.get(READY)]
    assert 500 not in [response.status_code for response in responses]
    return [response.status_code for response in responses] == [200, 422, 200]


@pytest.mark.parametrize("fault", [stopped, frozen])
async def test_everything_is_503_while_it_is_away_and_works_when_it_is_back(
    client: Client, spare_postgres: PostgresServer, fault: Callable[[PostgresServer], AbstractContextManager[None]]
) -> None:
    path = await client.make()
    await client.get(USERS)

    with fault(spare_postgres):
        expect_unavailable(await ask_everything(client, path))
        expect_unavailable({"again": await client.get(path)})
        live = await client.get("/api/health/live")

    await eventually(lambda: is_well(client))
    assert live.status_code == 200
    assert (await client.get(path)).status_code == 200
    assert (await client.patch(path, json={"given_name": "Grace"})).status_code == 200


async def test_reads_survive_the_end_of_all_sessions_and_writes_the_second_time(
    client: Client, spare_postgres: PostgresServer
) -> None:
    path = await client.make()
    for _ in range(5):
        await ask_everything(client, await client.make())
        end_sessions(spare_postgres)
        reads = await asyncio.gather(*(client.get(path) for _ in range(20)))
        first = await client.patch(path, json={"given_name": "Ada"})
        second = await client.patch(path, json={"given_name": "Grace"})

        assert {read.status_code for read in reads} == {200}
        assert first.status_code in {200, 503}
        assert second.status_code == 200


async def test_cached_reads_go_on(spare_url: str, spare_postgres: PostgresServer, tmp_path: Path) -> None:
    async with running(make_settings(spare_url, tmp_path, database_timeout=1)) as client:
        path, other = await client.make(given_name="Ada"), await client.make()
        await client.get(path)
        with stopped(spare_postgres):
            cached = [await client.get(path) for _ in range(20)]
            fresh = await client.get(path, headers={"Cache-Control": "no-cache"})
            uncached = await client.get(other)
            afterwards = await client.get(path)

    assert {(response.status_code, response.json()["given_name"]) for response in cached} == {(200, "Ada")}
    assert (fresh.status_code, uncached.status_code, afterwards.status_code) == (503, 503, 200)


async def check(client: Client) -> httpx.Response:
    """The probe's response after one more check of PostgreSQL."""
    health = client.application.health
    health.checked_at = float("-inf")
    await client.get(READY)
    if health.checking is not None:
        await health.checking
    return await client.get(READY)


@pytest.mark.parametrize("fault", [stopped, frozen])
async def test_readiness_gives_up_after_three_failed_checks_and_returns_after_one_success(
    client: Client,
    spare_postgres: PostgresServer,
    fault: Callable[[PostgresServer], AbstractContextManager[None]],
) -> None:
    async with asyncio.timeout(GUARD_SECONDS):
        before = await check(client)
        with fault(spare_postgres):
            away = [await check(client) for _ in range(3)]
        # A server that has just been started may be slow to accept a connection.
        client.application.health.check_timeout_seconds = GUARD_SECONDS
        back = await check(client)

    assert before.status_code == 200
    assert [response.status_code for response in away] == [200, 200, 503]
    assert away[-1].headers["retry-after"] == "1"
    assert away[-1].json() == {"status": "unavailable", "checks": {"database": "unavailable"}}
    assert back.status_code == 200


@pytest.fixture
def ordinary_url(spare_url: str, spare_postgres: PostgresServer) -> Iterator[str]:
    """The database as an ordinary role meets it: superusers get more connections than the database allows."""
    spare_postgres.execute(
        f'''CREATE ROLE service LOGIN;
        \\c "{spare_url}"
        GRANT ALL ON ALL TABLES IN SCHEMA public TO service'''
    )
    yield spare_url.replace("postgres@", "service@", 1)
    spare_postgres.execute(f'''\\c "{spare_url}"
        DROP OWNED BY service; DROP ROLE service''')


async def test_a_server_without_a_free_connection_is_503(
    ordinary_url: str, spare_postgres: PostgresServer, tmp_path: Path
) -> None:
    database = urlsplit(ordinary_url).path[1:]
    async with running(make_settings(ordinary_url, tmp_path, cache="none", database_timeout=1)) as client:
        path = await client.make()
        spare_postgres.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 0")
        end_sessions(spare_postgres)
        refused = {"first": await client.get(path), "list": await client.get(USERS), "again": await client.get(path)}
        spare_postgres.execute(f"ALTER DATABASE {database} CONNECTION LIMIT -1")

        await eventually(lambda: is_well(client))

    expect_unavailable(refused)


async def test_a_locked_row_is_503_and_free_again_afterwards(client: Client, spare_url: str) -> None:
    path, other = await client.make(), await client.make()
    holder = await asyncpg.connect(spare_url)
    async with asyncio.timeout(GUARD_SECONDS):
        async with holder.transaction():
            await holder.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", path.rpartition("/")[2])
            waiting = asyncio.create_task(client.patch(path, json={"given_name": "Ada"}))
            neighbour = await client.patch(other, json={"given_name": "Ada"})
            refused = await waiting
            read = await client.get(path)
        afterwards = await client.patch(path, json={"given_name": "Ada"})
    await holder.close()

    expect_unavailable({"locked": refused})
    assert (neighbour.status_code, read.status_code, afterwards.status_code) == (200, 200, 200)


async def test_a_locked_table_is_503_for_reads_too(client: Client, spare_url: str) -> None:
    path = await client.make()
    holder = await asyncpg.connect(spare_url)
    async with asyncio.timeout(GUARD_SECONDS):
        async with holder.transaction():
            await holder.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            responses = await asyncio.gather(client.get(path), client.get(USERS))
        afterwards = await client.get(path)
    await holder.close()

    expect_unavailable(dict(zip(("read", "list"), responses, strict=True)))
    assert afterwards.status_code == 200


async def test_more_writers_than_connections_wait_or_are_refused_but_never_break(
    spare_url: str, tmp_path: Path
) -> None:
    settings = make_settings(spare_url, tmp_path, postgres_max_connections=2)
    async with running(settings) as client, asyncio.timeout(GUARD_SECONDS * 2):
        path = await client.make()
        responses = await asyncio.gather(
            *(client.patch(path, json={"metadata": {"number": number}}) for number in range(60))
        )
        version = (await client.get(path)).json()["version"]

    statuses = [response.status_code for response in responses]
    assert set(statuses) <= {200, 503}
    assert version == 1 + statuses.count(200)


async def test_failures_are_counted_by_kind(client: Client, spare_postgres: PostgresServer) -> None:
    path = await client.make()
    with stopped(spare_postgres):
        await client.get(path)
        await client.get(USERS)
    metrics = (await client.get("/metrics")).text

    assert 'user_database_errors_total{kind="' in metrics
