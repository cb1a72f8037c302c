"""`GET /users/{id}/audit`: who changed what and when"""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import orjson
import pytest

from support.api import USERS, expect_fault, expect_problem, make_user, user_url
from support.settings import API_KEY
from user_service.postgres.partitions import MONTHS_AHEAD
from user_service.postgres.pool import connect_options
from user_service.settings import Settings

ACTOR = f"api-key:{hashlib.sha256(API_KEY.encode()).hexdigest()[:8]}"


async def test_each_change_shows_actor_fields_and_time(client: httpx.AsyncClient) -> None:
    user = await make_user(client, given_name="Wilhelmina")
    headers = {"X-Request-ID": "the-request"}
    changed = await client.patch(user_url(user), json={"locale": "fr", "status": "suspended"}, headers=headers)

    response = await client.get(user_url(user, "/audit"))

    assert response.headers["cache-control"] == "private, no-store"
    page = response.json()
    assert page["next_cursor"] is None
    assert [(item["version"], item["type"], item["status"]) for item in page["items"]] == [
        (1, "created", "active"),
        (2, "status_changed", "suspended"),
    ]
    assert page["items"][1] == {
        "id": page["items"][1]["id"],
        "version": 2,
        "type": "status_changed",
        "status": "suspended",
        "changed": ["locale", "status"],
        "actor": ACTOR,
        "request_id": "the-request",
        "traceparent": changed.headers["traceparent"],
        "changed_at": changed.json()["updated_at"],
        "reason": None,
    }
    assert [UUID(item["id"]).version for item in page["items"]] == [7, 7]
    assert datetime.fromisoformat(page["items"][0]["changed_at"])
    for value in (user["given_name"], user["email"], API_KEY):
        assert value not in response.text


async def test_pages_follow_each_other_to_the_end(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    for _ in range(6):
        await client.post(user_url(user, "/login"))

    seen: list[int] = []
    address: str | None = f"{user_url(user)}/audit?limit=3"
    while address is not None:
        response = await client.get(address)
        page = response.json()
        seen += [item["version"] for item in page["items"]]
        address = str(response.url.join(response.links["next"]["url"])) if "next" in response.links else None
        assert (address is None) == (page["next_cursor"] is None)

    assert seen == [1, 2, 3, 4, 5, 6, 7]


async def test_a_cursor_is_of_one_trail_and_not_to_be_altered(client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(2)]
    for user in users:
        await client.post(user_url(user, "/login"))
    cursor = (await client.get(user_url(users[0], "/audit?limit=1"))).json()["next_cursor"]
    listed = (await client.get(USERS, params={"limit": 1})).json()["next_cursor"]

    for user, text in ((users[1], cursor), (users[0], listed), (users[0], cursor[:-1] + "~"), (users[0], "")):
        response = await client.get(user_url(user, "/audit"), params={"cursor": text})
        expect_problem(response, 400, "invalid_cursor")
    expect_problem(await client.get(USERS, params={"cursor": cursor}), 400, "invalid_cursor")


@pytest.mark.parametrize("limit", ["0", "201", "1.0"])
async def test_a_page_has_1_to_200_changes(client: httpx.AsyncClient, limit: str) -> None:
    user = await make_user(client)

    expect_fault(await client.get(user_url(user, "/audit"), params={"limit": limit}), "?limit")


async def test_deleted_erased_and_purged_users_have_a_trail(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    for method, ending in (("DELETE", ""), ("POST", "/erase"), ("DELETE", "?purge=true")):
        assert (await client.request(method, user_url(user, ending))).status_code == 204
        assert (await client.get(user_url(user, "/audit"))).status_code == 200

    types = [item["type"] for item in (await client.get(user_url(user, "/audit"))).json()["items"]]
    assert types == ["created", "deleted", "erased", "purged"]


async def test_an_unknown_user_has_no_trail(client: httpx.AsyncClient) -> None:
    expect_problem(await client.get(f"{USERS}/{uuid4()}/audit"), 404, "user_not_found")
    expect_fault(await client.get(f"{USERS}/nobody/audit"), "path:user_id")


async def test_a_user_whose_log_is_past_its_time_has_an_empty_one(client: httpx.AsyncClient, database_url: str) -> None:
    user = await make_user(client)
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM user_changes")
    await connection.close()

    assert (await client.get(user_url(user, "/audit"))).json() == {"items": [], "next_cursor": None}


async def test_a_page_is_read_by_the_primary_key(settings: Settings) -> None:
    from user_service.users.audit import PAGE

    connection = await asyncpg.connect(**connect_options(settings))
    await connection.execute(
        "INSERT INTO user_changes (user_id, version, type, status, changed, actor, request_id, traceparent, changed_at,"
        " event_id) SELECT gen_random_uuid(), 1, 'created', 'active', '{}', 'a', 'r', 't', now(), gen_random_uuid()"
        " FROM generate_series(1, 5000)"
    )
    await connection.execute("ANALYZE user_changes")
    values = PAGE.arguments({"user_id": uuid4(), "after": 40, "limit": 51})
    ((plan,),) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {PAGE.sql}", *values)
    await connection.close()

    scans = list(leaves(orjson.loads(plan)[0]["Plan"]))
    assert len(scans) > MONTHS_AHEAD
    for scan in scans:
        assert scan["Node Type"] == "Index Scan"
        assert scan["Index Name"].endswith("_pkey")
        assert "version" in scan["Index Cond"]


def leaves(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Plans" not in node:
        yield node
    for child in node.get("Plans", ()):
        yield from leaves(child)
