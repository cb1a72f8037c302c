"""What an export writes, an import takes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from support.api import USERS, expect_fault, make_user, user_url

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]
IMPORTS = f"{USERS}/imports"
NDJSON = {"Content-Type": "application/x-ndjson"}
KEPT = (
    *("external_id", "email", "email_verified", "aliases", "username", "given_name", "phone", "status"),
    *("metadata", "preferences", "last_login_at"),
)


async def export(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await client.get(f"{USERS}/export{query}")).text.splitlines()]


async def bring_in(client: httpx.AsyncClient, users: list[dict[str, Any]], query: str = "") -> dict[str, Any]:
    content = "".join(json.dumps(user) + "\n" for user in users).encode()
    response = await client.post(f"{IMPORTS}?{query}", content=content, headers=NDJSON)
    assert response.status_code == 202, response.text
    found: dict[str, Any] = response.json()
    listed = await client.get(f"{IMPORTS}/{found['id']}/errors")
    return {**found, "errors": [json.loads(line) for line in listed.text.splitlines()]}


async def made_users(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """A user who has logged in, a suspended one, and a pending one, as an export writes them."""
    ada = await make_user(client, external_id="ada", given_name="Ada", email_verified=True, metadata={"seats": 5})
    bo = await make_user(
        client,
        external_id="bo",
        preferences={"theme": "dark"},
        aliases=["bo@example.com", "Bø@xn--fiqs8s.example"],
        username='Bo; "the, one"',
        phone="+442071838750",
    )
    await make_user(client, status="pending")
    await client.post(user_url(ada, "/login"))
    await client.post(user_url(bo, "/suspend"))
    return await export(client)


async def purge_all(client: httpx.AsyncClient) -> None:
    for user in await export(client, "?include=deleted"):
        assert (await client.delete(user_url(user, "?purge=true"))).status_code == 204


def aged(user: dict[str, Any], days: int) -> dict[str, Any]:
    """The user as if created some days ago: another id, whose first part is that time."""
    created_at = datetime.fromisoformat(user["created_at"]) - timedelta(days=days)
    first = f"{int(created_at.timestamp() * 1000 + 0.5):012x}"
    return {**user, "id": f"{first[:8]}-{first[8:]}{user['id'][13:]}", "created_at": created_at.isoformat()}


async def test_what_an_export_writes_an_import_takes(client: httpx.AsyncClient) -> None:
    users = [aged(user, 30) for user in await made_users(client)]
    await purge_all(client)
    begun = datetime.now(UTC) - timedelta(milliseconds=1)

    found = await bring_in(client, users)

    assert (found["created"], found["failed"]) == (3, 0), found["errors"]
    again = await export(client)
    assert [[user[name] for name in KEPT] for user in again] == [[user[name] for name in KEPT] for user in users]
    assert [datetime.fromisoformat(user["created_at"]) for user in again] == [
        datetime.fromisoformat(user["created_at"]) for user in users
    ]
    assert all(user["version"] == 1 and datetime.fromisoformat(user["updated_at"]) >= begun for user in again)
    assert not {user["id"] for user in users} & {user["id"] for user in again}
    listed = await client.get(USERS, params={"created_before": begun.isoformat().replace("+00:00", "Z")})
    assert len(listed.json()["items"]) == 3


async def test_csv_is_exported_and_taken_too(client: httpx.AsyncClient) -> None:
    name = 'Ada 6" Lovelace; Countess, of'
    await make_user(client, given_name=name, metadata={"seats": 5, "plan": "a,b"}, preferences={"a": [1]})
    await made_users(client)
    users = await export(client)
    exported = await client.get(f"{USERS}/export", headers={"Accept": "text/csv, */*;q=0.1"})
    assert exported.headers["content-type"].partition(";")[0] == "text/csv"
    assert exported.headers["vary"] == "Accept"
    assert exported.text.split("\r\n", 1)[0].split(",")[:3] == ["id", "external_id", "email"]
    await purge_all(client)

    response = await client.post(IMPORTS, content=exported.content, headers={"Content-Type": "text/csv"})

    assert (response.json()["created"], response.json()["failed"]) == (4, 0)
    again = await export(client)
    kept = [*KEPT, "created_at"]
    assert sorted([user[name] for name in kept][1:] for user in again) == sorted(
        [user[name] for name in kept][1:] for user in users
    )


@pytest.mark.parametrize("accept", ["text/csv", "application/x-ndjson"])
async def test_an_export_takes_the_filters_of_the_list_and_fields(client: httpx.AsyncClient, accept: str) -> None:
    users = await made_users(client)
    ada = await make_user(client, given_name="Grace Hopper", metadata={"plan": "pro"})
    headers = {"Accept": accept}

    async def emails(**query: str) -> list[str]:
        response = await client.get(f"{USERS}/export", params={**query, "fields": "email"}, headers=headers)
        assert response.status_code == 200, response.text
        if accept == "text/csv":
            head, *lines = response.text.splitlines()
            assert head == "id,email"
            return [line.split(",")[1] for line in lines]
        rows = [json.loads(line) for line in response.text.splitlines()]
        assert all(list(row) == ["id", "email"] for row in rows)
        return [row["email"] for row in rows]

    assert await emails() == [user["email"] for user in [*users, ada]]
    assert await emails(status="suspended") == [users[1]["email"]]
    assert await emails(q="hopper") == [ada["email"]]
    assert await emails(**{"metadata.plan": "pro"}) == [ada["email"]]
    assert await emails(email=ada["email"].upper()) == [ada["email"]]
    assert await emails(external_id="none") == []


async def test_fields_that_do_not_exist_are_refused(client: httpx.AsyncClient) -> None:
    response = await client.get(f"{USERS}/export", params={"fields": "email,shoe_size"})
    assert expect_fault(response, "?fields")["code"] == "unknown_field"


async def test_ids_are_kept_when_it_is_asked_for(client: httpx.AsyncClient) -> None:
    users = [aged(user, 30) for user in await made_users(client)]
    await purge_all(client)

    found = await bring_in(client, users, "keep_ids=true")

    assert (found["created"], found["failed"]) == (3, 0), found["errors"]
    assert [user["id"] for user in await export(client)] == [user["id"] for user in users]


async def test_many_users_are_kept_as_they_were(client: httpx.AsyncClient) -> None:
    """So many that they are copied, not inserted one by one."""
    login = "2026-01-31T12:00:00.5Z"
    users = [
        {"email": f"u{n}@example.org", "created_at": f"2025-03-{n % 28 + 1:02}T00:00:00Z", "last_login_at": login}
        for n in range(120)
    ]
    found = await bring_in(client, users)
    assert found["created"] == 120, found["errors"]
    kept = {user["email"]: user for user in await export(client)}
    assert all(kept[user["email"]]["created_at"][:10] == user["created_at"][:10] for user in users)
    assert {user["last_login_at"] for user in kept.values()} == {"2026-01-31T12:00:00.500000Z"}


async def test_the_same_user_is_updated_by_its_id(client: httpx.AsyncClient) -> None:
    user = (await made_users(client))[0]
    changed = {**user, "email": "other@example.org", "external_id": "other", "last_login_at": "2026-01-31T12:00:00Z"}
    found = await bring_in(client, [changed], "keep_ids=true&on_conflict=update")
    assert (found["updated"], found["failed"]) == (1, 0), found["errors"]
    now = (await client.get(user_url(user))).json()
    assert (now["email"], now["external_id"]) == ("other@example.org", "other")
    assert (now["last_login_at"], now["created_at"]) == ("2026-01-31T12:00:00Z", user["created_at"])


@pytest.mark.parametrize("on_conflict", ["fail", "skip", "update"])
@pytest.mark.parametrize("query", ["", "?purge=true"])
async def test_the_id_of_a_user_that_is_gone_is_not_used_again(
    client: httpx.AsyncClient, on_conflict: str, query: str
) -> None:
    user = (await made_users(client))[0]
    await client.delete(user_url(user, query))
    found = await bring_in(client, [user], f"keep_ids=true&on_conflict={on_conflict}")
    assert [(error["code"], error["field"]) for error in found["errors"]] == [("id_taken", "id")]


async def test_two_records_with_one_id_are_duplicates(client: httpx.AsyncClient) -> None:
    (user, *_) = [aged(user, 1) for user in await made_users(client)]
    twice = [{**user, "email": f"{n}@example.org", "external_id": None} for n in range(2)]
    found = await bring_in(client, twice, "keep_ids=true")
    assert (found["created"], [error["code"] for error in found["errors"]]) == (1, ["duplicate_in_batch"])


async def test_records_of_deleted_users_are_skipped(client: httpx.AsyncClient) -> None:
    gone, erased = await make_user(client), await make_user(client)
    await client.delete(user_url(gone))
    await client.post(user_url(erased, "/erase"))
    users = await export(client, "?include=deleted")
    found = await bring_in(client, users)
    assert (found["skipped"], found["created"], found["failed"], found["position"]) == (2, 0, 0, 2)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"created_at": "31.1.2026"}, "created_at", "RFC 3339"),
        ({"created_at": "1969-12-31T23:59:59Z"}, "created_at", "between 1970 and now"),
        ({"created_at": "2999-01-01T00:00:00Z"}, "created_at", "between 1970 and now"),
        ({"last_login_at": 5}, "last_login_at", "RFC 3339"),
        ({"id": "00000000-0000-4000-8000-000000000000"}, "id", "UUIDv7"),
        ({"id": "1"}, "id", "UUID"),
        ({"id": "ffffffff-ffff-7fff-bfff-ffffffffffff"}, "id", "between 1970 and now"),
        (
            {"id": "ffffffff-ffff-7fff-bfff-ffffffffffff", "created_at": "2026-01-31T12:00:00Z"},
            "id",
            "between 1970 and now",
        ),
        ({"id": "c0000000-0000-7fff-bfff-ffffffffffff"}, "id", "between 1970 and now"),
        (
            {"id": "0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f", "created_at": "2026-01-31T12:00:00Z"},
            "created_at",
            "the time that the id holds",
        ),
    ],
)
async def test_times_and_ids_that_can_not_be_kept_are_refused(
    client: httpx.AsyncClient, fields: dict[str, Any], field: str, said: str
) -> None:
    found = await bring_in(client, [{"email": "a@example.org", **fields}], "keep_ids=true")
    (error,) = found["errors"]
    assert error["field"] == field
    assert said in error["detail"]


async def test_a_record_whose_id_holds_no_possible_time_fails_alone(client: httpx.AsyncClient) -> None:
    users = [{"email": f"{n}@example.org"} for n in range(3)]
    users[1]["id"] = "ffffffff-ffff-7fff-bfff-ffffffffffff"

    found = await bring_in(client, users, "keep_ids=true")

    assert (found["created"], found["failed"], found["position"]) == (2, 1, 3)
    (error,) = found["errors"]
    assert (error["record"], error["field"]) == (2, "id")


async def test_an_id_of_a_clock_that_is_a_little_ahead_is_kept(client: httpx.AsyncClient) -> None:
    milliseconds = f"{int((datetime.now(UTC) + timedelta(minutes=4)).timestamp() * 1000):012x}"
    user = {"email": "a@example.org", "id": f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-000000000000"}

    found = await bring_in(client, [user], "keep_ids=true")

    assert found["created"] == 1, found["errors"]
    assert [kept["id"] for kept in await export(client)] == [user["id"]]


async def test_batches_do_not_take_what_imports_take(client: httpx.AsyncClient) -> None:
    item = {"data": {"email": "a@example.org", "created_at": "2026-01-31T12:00:00Z"}}
    response = await client.post(f"{USERS}/batch/create", json={"items": [item]})
    assert response.json()["items"][0]["error"]["pointer"] == "/items/0/data/created_at"
