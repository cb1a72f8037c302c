"""GET /users, page by page."""

import asyncio
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from support.api import USERS, expect_fault, expect_problem, make_user, user_url

pytestmark = pytest.mark.distributed

ORDERS = ["created_at", "-created_at", "updated_at", "-updated_at"]
ALTERED = ["", "x", "AAAA", "=", "ü", "%00", "a b", "A" * 200, "A" * 54]


async def page(client: httpx.AsyncClient, **parameters: Any) -> dict[str, Any]:
    response = await client.get(USERS, params=parameters)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def walk(client: httpx.AsyncClient, **parameters: Any) -> list[dict[str, Any]]:
    seen, cursor = [], {}
    while True:
        found = await page(client, **parameters, **cursor)
        seen += found["items"]
        if found["next_cursor"] is None:
            return seen
        assert len(found["items"]) == parameters["limit"]
        cursor = {"cursor": found["next_cursor"]}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 3, 4, 200])
async def test_a_walk_over_all_pages_returns_each_user_once_in_order(
    client: httpx.AsyncClient, order: str, limit: int
) -> None:
    users = [await make_user(client) for _ in range(8)]
    for user in (users[5], users[0]):
        await client.post(user_url(user, "/login"))

    seen = await walk(client, sort=order, limit=limit)

    field = order.removeprefix("-")
    assert sorted(user["id"] for user in seen) == sorted(user["id"] for user in users)
    # As times: a whole second is written without a fraction, and as text it would come behind those that have one.
    assert seen == sorted(
        seen, key=lambda user: (datetime.fromisoformat(user[field]), user["id"]), reverse=order.startswith("-")
    )


@pytest.mark.parametrize("order", ORDERS)
async def test_an_unchanged_user_is_returned_once_while_others_change(client: httpx.AsyncClient, order: str) -> None:
    users = [await make_user(client, given_name="Ada") for _ in range(30)]
    staying = {user["id"] for user in users[::2]}
    stop = asyncio.Event()

    async def unrest() -> None:
        restless = users[1::2]
        while not stop.is_set():
            for user in restless:
                await client.post(user_url(user, "/login"))
            await client.delete(user_url(restless.pop()))
            await make_user(client, given_name="Ada")

    task = asyncio.create_task(unrest())
    try:
        for filters in ({}, {"q": "ada"}):
            seen = [user["id"] for user in await walk(client, sort=order, limit=4, **filters)]
            assert sorted(set(seen) & staying) == sorted(staying)
            assert sorted(user_id for user_id in seen if user_id in staying) == sorted(staying)
    finally:
        stop.set()
        await task


async def test_an_empty_list_has_no_next_page(client: httpx.AsyncClient) -> None:
    response = await client.get(USERS)

    assert (response.status_code, response.json()) == (200, {"items": [], "next_cursor": None})
    assert "link" not in response.headers


async def test_the_link_leads_to_the_next_page_of_the_same_query(client: httpx.AsyncClient) -> None:
    for name in ("Ada Ä&=", "Ada 1", "Ada 2"):
        await make_user(client, given_name=name, metadata={"a&b": "c=d"})
    parameters = {"q": "ada", "metadata.a&b": "c=d", "limit": 2, "sort": "-created_at", "include": "deleted"}

    first = await client.get(USERS, params=parameters)
    target = str(first.url.join(first.links["next"]["url"]))
    second = await client.get(target)

    query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
    assert query == {name: str(value) for name, value in parameters.items()} | {"cursor": first.json()["next_cursor"]}
    assert [user["given_name"] for user in first.json()["items"] + second.json()["items"]] == [
        "Ada 2",
        "Ada 1",
        "Ada Ä&=",
    ]
    assert "next" not in second.links


async def test_pages_are_not_stored_by_caches(shared_client: httpx.AsyncClient) -> None:
    assert (await shared_client.get(USERS)).headers["cache-control"] == "private, no-store"


async def test_the_page_size_may_change_between_pages(client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(5)]

    first = await page(client, limit=1)
    rest = await page(client, limit=200, cursor=first["next_cursor"])

    assert first["items"] + rest["items"] == users


@pytest.mark.parametrize(
    "other", [{"sort": "-created_at"}, {"sort": "created_at"}, {"include": "deleted"}, {"status": "active"}, {"q": "x"}]
)
async def test_a_cursor_of_another_query_is_refused(client: httpx.AsyncClient, other: dict[str, str]) -> None:
    for _ in range(2):
        await make_user(client)
    cursor = (await page(client, limit=1))["next_cursor"]

    response = await client.get(USERS, params={"limit": 1, "cursor": cursor, **other})

    expect_problem(response, 400, "invalid_cursor")


@pytest.mark.parametrize("cursor", ALTERED)
async def test_what_is_no_cursor_is_refused(shared_client: httpx.AsyncClient, cursor: str) -> None:
    expect_problem(await shared_client.get(USERS, params={"cursor": cursor}), 400, "invalid_cursor")


async def test_an_altered_cursor_is_refused(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await make_user(client)
    cursor = (await page(client, limit=1))["next_cursor"]

    for altered in (
        cursor[:-1],
        cursor + "A",
        cursor + "=",
        cursor + "==",
        cursor.swapcase(),
        f" {cursor}",
        cursor[1:],
    ):
        expect_problem(await client.get(USERS, params={"limit": 1, "cursor": altered}), 400, "invalid_cursor")


@pytest.mark.parametrize(
    "limit", ["0", "-1", "201", "", "ten", "1.5", "5.0", "1e2", "0x10", " 5", "٥", "9" * 30, "1_0"]
)
async def test_a_limit_is_a_whole_number_from_1_to_200(shared_client: httpx.AsyncClient, limit: str) -> None:
    expect_fault(await shared_client.get(USERS, params={"limit": limit}), "?limit")


@pytest.mark.parametrize("order", ["", "email", "created_at,updated_at", "--created_at", "CREATED_AT", "created_at "])
async def test_other_orders_are_refused(shared_client: httpx.AsyncClient, order: str) -> None:
    expect_fault(await shared_client.get(USERS, params={"sort": order}), "?sort")
