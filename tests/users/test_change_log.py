"""One row for each change, in the transaction of the change"""

import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from support.api import USERS, make_user, unique_email, user_url
from support.settings import API_KEY, OTHER_API_KEY
from user_service.users.repository import QUEUED_CHANGES

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"X-Request-ID": "the-request", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def changes(database: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch("SELECT * FROM user_changes ORDER BY event_id")]


async def only_change(database: Any, after: int) -> dict[str, Any]:
    """The one row that came after the first `after` ones."""
    (change,) = (await changes(database))[after:]
    return change


async def test_a_creation_names_the_fields_that_are_filled(client: httpx.AsyncClient, database: Any) -> None:
    user = await make_user(client, given_name="Ada", metadata={"plan": "pro"}, phone=None)

    change = await only_change(database, 0)

    assert change["user_id"] == UUID(user["id"])
    assert (change["version"], change["type"], change["status"]) == (1, "created", "active")
    assert set(change["changed"]) == {"email", "email_verified", "given_name", "status", "metadata"}


PATCHES: list[tuple[dict[str, Any], str, set[str]]] = [
    ({"given_name": "Augusta", "phone": "+442071838750"}, "updated", {"given_name", "phone"}),
    ({"given_name": "Ada", "locale": "fr"}, "updated", {"locale"}),
    ({"metadata": {"n": True}}, "updated", {"metadata"}),
    ({"email": "new@example.org"}, "updated", {"email", "email_verified"}),
    ({"status": "suspended", "locale": "fr"}, "status_changed", {"status", "locale"}),
]


@pytest.mark.parametrize(("patch", "kind", "changed"), PATCHES)
async def test_an_update_names_what_changed_and_no_more(
    client: httpx.AsyncClient, database: Any, patch: dict[str, Any], kind: str, changed: set[str]
) -> None:
    user = await make_user(client, given_name="Ada", metadata={"n": 1}, email_verified=True)

    await client.patch(user_url(user), json=patch)

    change = await only_change(database, 1)
    assert (change["version"], change["type"], set(change["changed"])) == (2, kind, changed)


@pytest.mark.parametrize(
    ("method", "ending", "kind", "status", "changed"),
    [
        ("DELETE", "", "deleted", "deleted", {"status", "deleted_at"}),
        ("POST", "/suspend", "status_changed", "suspended", {"status"}),
        ("POST", "/activate", "status_changed", "active", {"status"}),
        ("POST", "/login", "updated", "pending", {"last_login_at"}),
        ("DELETE", "?purge=true", "purged", "pending", set()),
    ],
)
async def test_each_kind_of_change_has_its_type(
    client: httpx.AsyncClient, database: Any, method: str, ending: str, kind: str, status: str, changed: set[str]
) -> None:
    user = await make_user(client, status="pending")

    assert (await client.request(method, user_url(user, ending))).is_success

    change = await only_change(database, 1)
    assert (change["version"], change["type"], change["status"], set(change["changed"])) == (2, kind, status, changed)


async def test_a_restore_has_its_type(client: httpx.AsyncClient, database: Any) -> None:
    user = await make_user(client)
    await client.delete(user_url(user))

    await client.post(user_url(user, "/restore"))

    change = await only_change(database, 2)
    assert (change["version"], change["type"], change["status"]) == (3, "restored", "active")
    assert set(change["changed"]) == {"status", "deleted_at"}


async def test_an_upsert_is_a_creation_or_an_update(client: httpx.AsyncClient, database: Any) -> None:
    body = {"email": unique_email()}
    for extra in ({}, {}, {"given_name": "Ada"}):
        await client.put(f"{USERS}/by-external-id/crm-1", json=body | extra)

    assert [(row["version"], row["type"]) for row in await changes(database)] == [(1, "created"), (2, "updated")]


@pytest.mark.parametrize(("headers", "key"), [({"X-API-Key": OTHER_API_KEY}, OTHER_API_KEY), ({}, API_KEY)])
async def test_a_change_knows_who_made_it_in_which_request(
    client: httpx.AsyncClient, database: Any, headers: dict[str, str], key: str
) -> None:
    response = await client.post(USERS, json={"email": unique_email()}, headers=HEADERS | headers)

    change = await only_change(database, 0)
    assert change["actor"] == f"api-key:{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    assert change["request_id"] == "the-request"
    assert change["traceparent"] == response.headers["traceparent"]
    assert change["traceparent"].startswith(f"00-{TRACE}-")
    assert change["changed_at"].isoformat()[:16] == response.json()["created_at"][:16]
    assert change["event_id"].version == 7


async def test_each_change_leaves_a_row_in_the_outbox(client: httpx.AsyncClient, database: Any) -> None:
    users = [await make_user(client) for _ in range(3)]
    await client.patch(user_url(users[0]), json={"locale": "fr"})

    rows = await database.fetch("SELECT user_id, version, partition, changed_at FROM outbox ORDER BY seq")

    ids = [UUID(user["id"]) for user in (*users, users[0])]
    assert [(row["user_id"], row["version"]) for row in rows] == list(zip(ids, [1, 1, 1, 2], strict=True))
    assert [row["partition"] for row in rows] == [user_id.int % 16 for user_id in ids]
    assert [row["changed_at"] for row in rows] == [change["changed_at"] for change in await changes(database)]


async def test_what_changes_nothing_leaves_no_row(client: httpx.AsyncClient, database: Any) -> None:
    user = await make_user(client, given_name="Ada", external_id="crm-1")
    other = await make_user(client)
    before = await changes(database)

    for response in (
        await client.patch(user_url(user), json={"given_name": "Ada"}),
        await client.patch(user_url(user), json={}),
        await client.put(f"{USERS}/by-external-id/crm-1", json={"email": user["email"]}),
        await client.get(user_url(user)),
    ):
        assert response.status_code == 200
    for response in (
        await client.post(USERS, json={"email": user["email"]}),
        await client.patch(user_url(user), json={"email": other["email"], "given_name": "Eve"}),
        await client.patch(user_url(user), json={"given_name": "Eve"}, headers={"If-Match": '"9"'}),
        await client.patch(user_url(user), json={"phone": "x"}),
        await client.delete(user_url(user), headers={"If-Match": '"9"'}),
        await client.delete(user_url(user, "?purge=true"), headers={"If-Match": '"9"'}),
        await client.post(user_url(user, "/activate")),
        await client.post(user_url(user, "/restore")),
    ):
        assert response.is_client_error

    assert await changes(database) == before


async def test_a_purge_leaves_the_log_and_nothing_else(client: httpx.AsyncClient, database: Any) -> None:
    user = await make_user(client, given_name="Ada", metadata={"n": 1e16})
    await client.patch(user_url(user), json={"metadata": {"m": -0.0}, "given_name": "Augusta"})

    await client.delete(user_url(user, "?purge=true"))

    assert [row["type"] for row in await changes(database)] == ["created", "updated", "purged"]
    for table in ("users", "user_terms"):
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("bodies", [[{}], [{}, {"locale": "fr"}, {"status": "pending", "locale": "de"}]])
async def test_a_batch_is_in_the_log_in_its_order_whether_its_changes_are_alike_or_not(
    client: httpx.AsyncClient, database: Any, bodies: list[dict[str, str]]
) -> None:
    """More changes than a row of the feed's queue has."""
    items = [{"data": {"email": unique_email(), **bodies[place % len(bodies)]}} for place in range(2 * QUEUED_CHANGES)]

    made = (await client.post(f"{USERS}/batch/create", json={"items": items})).json()["items"]

    rows = await changes(database)
    assert [str(row["user_id"]) for row in rows] == [item["id"] for item in made]
    for row, item in zip(rows, items, strict=True):
        assert row["status"] == item["data"].get("status", "active")
        assert ("locale" in row["changed"]) == ("locale" in item["data"])
        assert {"email", "status"} <= set(row["changed"])
    feed = (await client.get(f"{USERS}/changes", params={"limit": 1000})).json()["items"]
    assert [(item["user_id"], item["id"]) for item in feed] == [
        (str(row["user_id"]), str(row["event_id"])) for row in rows
    ]
