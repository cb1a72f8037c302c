"""How often an operation waits for PostgreSQL, once its statements are prepared."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from support.api import USERS, make_user, unique_email, user_url
from support.application import started
from support.servers import PostgresServer
from user_service.app import Application
from user_service.users.reader import FETCHES_TO_EXPECT_CACHED

Operation = Callable[[httpx.AsyncClient, dict[str, Any]], Awaitable[httpx.Response]]
KEYS = iter(f"round-trips-{number}" for number in range(1000))


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with started(application) as client:
        yield client


@asynccontextmanager
async def recorded(application: Application) -> AsyncIterator[list[str]]:
    """The statements that requests send in the meantime; those of the feed's background task are left out."""
    queries: list[str] = []

    def note(record: Any) -> None:
        if "feed_state" not in record.query:
            queries.append(record.query)

    resources = application.resources
    assert resources.services is not None
    pools = (resources.services.database.primary.connections, resources.pool.connections)
    connections = [connection for pool in pools for connection in pool.idle]
    for connection in connections:
        connection.add_query_logger(note)
    yield queries
    # asyncpg reports a statement in the next turn of the loop.
    await asyncio.sleep(0.01)
    for connection in connections:
        connection.remove_query_logger(note)


def keyed() -> dict[str, str]:
    return {"Idempotency-Key": next(KEYS)}


async def delete_and_restore(client: httpx.AsyncClient, user: dict[str, Any], **options: Any) -> httpx.Response:
    await client.delete(user_url(user))
    return await client.post(user_url(user, "/restore"), **options)


OPERATIONS: dict[str, tuple[int, Operation]] = {
    "find by e-mail": (1, lambda client, user: client.get(USERS, params={"email": user["email"]})),
    "find by username": (1, lambda client, _: client.get(USERS, params={"username": "ada"})),
    "find by external id": (1, lambda client, _: client.get(USERS, params={"external_id": "7"})),
    "page": (1, lambda client, _: client.get(USERS, params={"limit": 50})),
    "batch find": (
        1,
        lambda client, user: client.post(f"{USERS}/batch/find", json={"emails": [user["email"], "x@y.z"]}),
    ),
    "create": (1, lambda client, _: client.post(USERS, json={"email": unique_email(), "given_name": "Ada"})),
    "create with a key": (
        1,
        lambda client, _: client.post(USERS, json={"email": unique_email()}, headers=keyed()),
    ),
    "change": (2, lambda client, user: client.patch(user_url(user), json={"email": unique_email()})),
    "change with a key": (
        2,
        lambda client, user: client.patch(user_url(user), json={"email": unique_email()}, headers=keyed()),
    ),
    "upsert": (
        2,
        lambda client, _: client.put(f"{USERS}/by-external-id/{next(KEYS)}", json={"email": unique_email()}),
    ),
    "login": (2, lambda client, user: client.post(user_url(user, "/login"))),
    "delete and restore": (4, delete_and_restore),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_round_trips(application: Application, client: httpx.AsyncClient, name: str) -> None:
    expected, operate = OPERATIONS[name]
    user = await make_user(client, username="ada", external_id="7")
    assert (await operate(client, user)).is_success
    user = (await client.get(user_url(user))).json()

    async with recorded(application) as queries:
        response = await operate(client, user)

    assert response.is_success
    assert len(queries) == expected, queries


async def test_suspend_and_activate(application: Application, client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    assert (await client.post(user_url(user, "/suspend"))).is_success

    async with recorded(application) as queries:
        assert (await client.post(user_url(user, "/activate"))).is_success

    assert len(queries) == 2, queries


async def test_what_is_refused_is_explained_by_a_transaction(
    application: Application, client: httpx.AsyncClient
) -> None:
    user = await make_user(client)

    async with recorded(application) as queries:
        assert (await client.post(USERS, json={"email": user["email"]})).status_code == 409

    assert queries[1] == "BEGIN"
    assert queries[-1] == "ROLLBACK"


async def test_a_page_of_cached_users_is_read_without_their_content(
    application: Application, client: httpx.AsyncClient
) -> None:
    users = [await make_user(client) for _ in range(3)]
    for user in users:
        assert (await client.get(user_url(user))).is_success

    async with recorded(application) as queries:
        pages = [(await client.get(USERS)).json()["items"] for _ in range(3)]

    assert pages == [users] * 3
    assert ["personal" in query for query in queries] == [True, False, False]


async def test_a_page_with_a_user_that_is_not_cached_is_read_as_a_whole(
    application: Application, client: httpx.AsyncClient
) -> None:
    users = [await make_user(client) for _ in range(3)]
    for user in users:
        assert (await client.get(user_url(user))).is_success
    for _ in range(2):
        await client.get(USERS)
    users[1] = (await client.patch(user_url(users[1]), json={"given_name": "Grace"})).json()

    async with recorded(application) as queries:
        pages = [(await client.get(USERS)).json()["items"] for _ in range(3)]

    assert pages == [users] * 3
    assert ["personal" in query for query in queries] == [False, True, True, True]


async def test_after_finds_of_cached_users_the_next_ones_read_versions(
    application: Application, client: httpx.AsyncClient
) -> None:
    users = [await make_user(client) for _ in range(3)]

    async def find() -> list[dict[str, Any]]:
        body = {"ids": [users[0]["id"]], "emails": [user["email"] for user in users]}
        found: list[dict[str, Any]] = (await client.post(f"{USERS}/batch/find", json=body)).json()["found"]
        return found

    for _ in range(FETCHES_TO_EXPECT_CACHED + 1):
        assert await find() == users

    async with recorded(application) as queries:
        assert await find() == users
        users[1] = (await client.patch(user_url(users[1]), json={"given_name": "Grace"})).json()
        await asyncio.sleep(0.01)
        del queries[:]
        changed = [await find() for _ in range(2)]
        await client.delete(user_url(users[2]))
        assert await find() == users[:2]

    finds = ["personal" in query for query in queries if query.startswith("WITH found AS MATERIALIZED")]
    assert changed == [users, users]
    assert finds == [False, True, True, True]


async def test_a_find_that_wants_no_cache_reads_the_content(
    application: Application, client: httpx.AsyncClient
) -> None:
    user = await make_user(client)
    body, headers = {"emails": [user["email"]]}, {"Cache-Control": "no-cache"}
    for _ in range(FETCHES_TO_EXPECT_CACHED + 2):
        await client.post(f"{USERS}/batch/find", json=body)

    async with recorded(application) as queries:
        assert (await client.post(f"{USERS}/batch/find", json=body, headers=headers)).json()["found"] == [user]

    assert ["personal" in query for query in queries] == [True]


async def test_concurrent_finds_share_statements(application: Application, client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(12)]
    await client.get(USERS, params={"email": users[0]["email"]})

    async with recorded(application) as queries:
        responses = await asyncio.gather(
            *(client.get(USERS, params={"email": user["email"]}) for user in users),
            *(
                client.post(f"{USERS}/batch/find", json={"ids": [user["id"]], "emails": [user["email"], "x@y.z"]})
                for user in users
            ),
        )

    single, batches = responses[:12], responses[12:]
    assert [response.json()["items"] for response in single] == [[user] for user in users]
    assert [response.json()["found"] for response in batches] == [[user] for user in users]
    assert all(response.json()["missing"]["emails"] == ["x@y.z"] for response in batches)
    assert 0 < len(queries) <= 12


async def test_concurrent_changes_of_users_share_the_reads(application: Application, client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(12)]
    assert (await client.post(user_url(users[0], "/login"))).is_success

    async with recorded(application) as queries:
        responses = await asyncio.gather(*(client.post(user_url(user, "/login")) for user in users))

    reads = [query for query in queries if query.startswith("SELECT")]
    versions = [(await client.get(user_url(user))).json()["version"] for user in users]
    assert {response.status_code for response in responses} == {204}
    assert versions == [3] + [2] * 11
    assert 0 < len(reads) <= 6


async def test_a_user_that_can_not_be_decrypted_fails_its_own_find_alone(
    application: Application, client: httpx.AsyncClient, postgres: PostgresServer, database_url: str
) -> None:
    lost, *users = [await make_user(client) for _ in range(6)]
    postgres.execute(f"\\c {database_url}\nUPDATE users SET personal = '\\x00' WHERE id = '{lost['id']}';")

    responses = await asyncio.gather(
        *(client.get(USERS, params={"email": user["email"]}) for user in [lost, *users]),
        *(client.post(f"{USERS}/batch/find", json={"emails": [user["email"]]}) for user in [lost, *users]),
    )

    assert [response.is_success for response in responses] == [False, *[True] * 5] * 2
