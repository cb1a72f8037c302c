"""GET /users with `fields` and `count`."""

from typing import Any

import httpx
import pytest

from support.api import USERS, expect_fault, make_user, user_url
from user_service.users.schemas import UserRead

FIELDS = list(UserRead.model_fields)


async def listed(client: httpx.AsyncClient, **parameters: Any) -> dict[str, Any]:
    response = await client.get(USERS, params=parameters)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


@pytest.mark.parametrize("field", FIELDS)
async def test_each_field_can_be_asked_for_and_id_is_always_there(client: httpx.AsyncClient, field: str) -> None:
    user = await make_user(client, given_name="Ada", metadata={"plan": "pro"})

    page = await listed(client, fields=field)

    assert page == {"items": [{name: user[name] for name in ("id", field)}], "next_cursor": None}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("email,status", ["id", "email", "status"]),
        ("status, email ,email,id", ["id", "email", "status"]),
        (",".join(FIELDS), FIELDS),
    ],
)
async def test_fields_are_in_the_order_of_the_schema(
    client: httpx.AsyncClient, fields: str, expected: list[str]
) -> None:
    await make_user(client)

    assert [list(user) for user in (await listed(client, fields=fields))["items"]] == [expected]


@pytest.mark.parametrize("fields", ["", "shoe_size", "email,", "email;status", "Email", "metadata.plan", "*"])
@pytest.mark.parametrize("path", ["", "/export"])
async def test_unknown_fields_are_refused_with_the_known_ones(
    shared_client: httpx.AsyncClient, fields: str, path: str
) -> None:
    fault = expect_fault(await shared_client.get(USERS + path, params={"fields": fields}), "?fields")

    assert ", ".join(FIELDS) in fault["detail"]


async def test_pages_with_fields_lead_on_and_a_cursor_is_valid_for_other_fields(client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(3)]

    first = await client.get(USERS, params={"fields": "email", "limit": 1, "count": "true"})
    second = await client.get(first.url.join(first.links["next"]["url"]))
    last = await listed(client, cursor=second.json()["next_cursor"])

    assert first.json()["items"] == [{"id": users[0]["id"], "email": users[0]["email"]}]
    assert second.json()["items"] == [{"id": users[1]["id"], "email": users[1]["email"]}]
    assert last["items"] == [users[2]]


async def test_count_is_the_number_on_all_pages(client: httpx.AsyncClient) -> None:
    users = [await make_user(client, given_name=f"Ada {number % 2}", metadata={"n": number % 3}) for number in range(7)]
    await client.delete(user_url(users[6]))
    await client.post(user_url(users[5], "/suspend"))

    async def total(**parameters: Any) -> int:
        return int((await listed(client, count="true", limit=1, **parameters))["total"])

    assert await total() == 6
    assert await total(include="deleted") == 7
    assert await total(status="deleted") == 1
    assert await total(status="suspended") == 1
    assert await total(q="ada") == 6
    assert await total(q="ada 1", sort="-updated_at") == 3
    assert await total(q="ada 1", **{"metadata.n": "0"}) == 1
    assert await total(q="nobody") == 0
    assert await total(q="!") == 0
    assert await total(email=users[0]["email"]) == 1
    assert await total(email=users[6]["email"], include="deleted") == 1
    assert await total(external_id="none") == 0
    assert await total(created_after=users[2]["created_at"]) == len([u for u in users[:6] if u["id"] > users[2]["id"]])
    cursor = (await listed(client, limit=4))["next_cursor"]
    assert await total(cursor=cursor) == 6


@pytest.mark.parametrize("count", ["false", None])
async def test_without_count_there_is_no_total(client: httpx.AsyncClient, count: str | None) -> None:
    parameters = {} if count is None else {"count": count}

    assert set(await listed(client, **parameters)) == {"items", "next_cursor"}


@pytest.mark.parametrize("count", ["1", "yes", "TRUE", ""])
async def test_count_is_true_or_false(shared_client: httpx.AsyncClient, count: str) -> None:
    expect_fault(await shared_client.get(USERS, params={"count": count}), "?count")


async def test_the_document_knows_the_parameters(shared_client: httpx.AsyncClient) -> None:
    document = (await shared_client.get("/openapi.json")).json()

    parameters = {each["name"]: each["schema"] for each in document["paths"][USERS]["get"]["parameters"]}
    schemas = document["components"]["schemas"]
    assert "shoe_size" not in parameters["fields"]["pattern"]
    assert "email" in parameters["fields"]["pattern"]
    assert (parameters["count"]["type"], parameters["count"]["default"]) == ("boolean", False)
    assert schemas["UserPage"]["required"] == ["items", "next_cursor"]
    assert schemas["UserPage"]["properties"]["total"]["type"] == "integer"
    assert schemas["SelectedUser"]["required"] == ["id"]
    assert schemas["SelectedUser"]["properties"] == schemas["UserRead"]["properties"]
