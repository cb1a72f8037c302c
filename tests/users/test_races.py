"""Fifty at once"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from support.api import USERS, make_user, unique_email, user_url
from support.application import started
from user_service.app import Application

pytestmark = pytest.mark.distributed

MANY = 50
PATIENCE = 40
FRESH = {"Cache-Control": "no-cache"}


class Patient(httpx.ASGITransport):
    """Sends a request again after a 503, which a slow machine answers when all database connections are in use."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(PATIENCE):
            response = await super().handle_async_request(request)
            if response.status_code != 503:
                break
        return response


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with started(application, Patient(application)) as client:
        yield client


async def at_once(*requests: Any) -> Counter[int]:
    return Counter(response.status_code for response in await asyncio.gather(*requests))


async def test_creates_of_one_email_make_one_user(client: httpx.AsyncClient) -> None:
    statuses = await at_once(*(client.post(USERS, json={"email": "ada@example.org"}) for _ in range(MANY)))

    assert statuses == {201: 1, 409: MANY - 1}
    assert len((await client.get(USERS)).json()["items"]) == 1


async def test_changes_of_one_version_make_one_change(client: httpx.AsyncClient) -> None:
    user = await make_user(client)

    statuses = await at_once(
        *(
            client.patch(user_url(user), json={"given_name": f"Ada {number}"}, headers={"If-Match": '"1"'})
            for number in range(MANY)
        )
    )

    assert statuses == {200: 1, 412: MANY - 1}
    assert (await client.get(user_url(user), headers=FRESH)).json()["version"] == 2


async def test_changes_without_a_condition_all_apply(client: httpx.AsyncClient) -> None:
    user = await make_user(client)

    statuses = await at_once(
        *(client.patch(user_url(user), json={"metadata": {f"k{number}": number}}) for number in range(MANY))
    )

    seen = (await client.get(user_url(user))).json()
    assert statuses == {200: MANY}
    assert seen["version"] == MANY + 1
    assert seen["metadata"] == {f"k{number}": number for number in range(MANY)}
    assert seen == (await client.get(user_url(user), headers=FRESH)).json()


async def test_upserts_of_one_external_id_make_one_user(client: httpx.AsyncClient) -> None:
    statuses = await at_once(
        *(
            client.put(
                f"{USERS}/by-external-id/crm-1", json={"email": "ada@example.org", "metadata": {f"k{number}": 1}}
            )
            for number in range(MANY)
        )
    )

    (user,) = (await client.get(USERS)).json()["items"]
    assert statuses == {201: 1, 200: MANY - 1}
    assert user["version"] == MANY
    assert len(user["metadata"]) == MANY


async def test_upserts_with_emails_of_their_own_make_one_user(client: httpx.AsyncClient) -> None:
    statuses = await at_once(
        *(client.put(f"{USERS}/by-external-id/crm-1", json={"email": unique_email()}) for _ in range(MANY))
    )

    assert statuses == {201: 1, 200: MANY - 1}
    assert len((await client.get(USERS)).json()["items"]) == 1


async def test_a_restore_and_creates_of_its_email_leave_one_user(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    await client.delete(user_url(user))

    responses = await asyncio.gather(
        *(client.post(user_url(user, "/restore")) for _ in range(5)),
        *(client.post(USERS, json={"email": user["email"]}) for _ in range(20)),
    )

    assert Counter(response.is_success for response in responses) == {True: 1, False: 24}
    assert {response.status_code for response in responses if not response.is_success} == {409}
    assert len((await client.get(USERS)).json()["items"]) == 1


async def test_changes_to_one_email_are_won_by_one(client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(20)]

    statuses = await at_once(*(client.patch(user_url(user), json={"email": "ada@example.org"}) for user in users))

    assert statuses == {200: 1, 409: 19}


async def test_users_that_swap_their_emails_are_refused_in_order(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        users = [await make_user(client) for _ in range(2)]

        responses = await asyncio.gather(
            client.patch(user_url(users[0]), json={"email": users[1]["email"]}),
            client.patch(user_url(users[1]), json={"email": users[0]["email"]}),
        )

        assert {response.status_code for response in responses} == {409}


async def test_deletions_and_purges_of_one_user_happen_once(client: httpx.AsyncClient) -> None:
    user, other = await make_user(client), await make_user(client)

    assert await at_once(*(client.delete(user_url(user)) for _ in range(MANY))) == {204: 1, 404: MANY - 1}
    purges = (client.delete(user_url(other), params={"purge": "true"}) for _ in range(MANY))
    assert await at_once(*purges) == {204: 1, 404: MANY - 1}


async def test_reads_among_changes_never_go_back(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    seen: list[int] = []
    done = asyncio.Event()

    async def read() -> None:
        while not done.is_set():
            seen.append((await client.get(user_url(user))).json()["version"])
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    for number in range(20):
        await client.patch(user_url(user), json={"metadata": {"n": number}})
        assert (await client.get(user_url(user))).json()["version"] == number + 2
    done.set()
    await reader

    assert seen == sorted(seen)
