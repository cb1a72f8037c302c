"""POST /users"""

import re
from datetime import datetime
from uuid import UUID

import httpx
import pytest

from support.api import USERS, created_path, expect_fault, expect_problem, make_user, unique_email, user_url

EVERYTHING = {
    "external_id": "crm/42 ü",
    "email_verified": True,
    "aliases": ["ada.king@example.com", "Äda@xn--fiqs8s.example"],
    "username": "Ada L 🧮",
    "given_name": "Ada",
    "family_name": "King-Noel, Countess of Lovelace",
    "display_name": "Ada 🧮",
    "phone": "+442071838750",
    "locale": "en-GB",
    "timezone": "Europe/London",
    "status": "pending",
    "preferences": {"theme": {"dark": True}, "sizes": [1, 2.5, None], "nul": "\0"},
    "metadata": {"plan": "pro", "seats": 3, "rate": 0.5, "trial": False, "note": None},
}


async def test_a_new_user_is_answered_whole_with_its_address_and_version(shared_client: httpx.AsyncClient) -> None:
    email = unique_email()

    response = await shared_client.post(USERS, json={"email": email})

    user = response.json()
    assert response.status_code == 201
    assert created_path(response) == user_url(user)
    assert response.headers["etag"] == '"1"'
    assert response.headers["content-type"] == "application/json"
    assert UUID(user["id"]).version == 7
    assert user.pop("created_at") == user.pop("updated_at")
    assert user == {
        "id": user["id"],
        "email": email,
        "email_verified": False,
        "aliases": [],
        "status": "active",
        "preferences": {},
        "metadata": {},
        "version": 1,
        **dict.fromkeys(("external_id", "given_name", "family_name", "display_name", "phone", "locale", "timezone")),
        **dict.fromkeys(("username", "last_login_at", "deleted_at")),
    }


async def test_every_field_comes_back_as_it_was_given(client: httpx.AsyncClient) -> None:
    made = await make_user(client, **EVERYTHING)

    cached, stored = (
        await client.get(user_url(made)),
        await client.get(user_url(made), headers={"Cache-Control": "no-cache"}),
    )

    assert {name: made[name] for name in EVERYTHING} == EVERYTHING
    assert cached.json() == stored.json() == made


async def test_times_are_utc_with_a_z(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", user["created_at"])
    assert datetime.fromisoformat(user["created_at"]).timestamp() == pytest.approx(
        int(UUID(user["id"]).hex[:12], 16) / 1000
    )


async def test_an_email_belongs_to_one_living_user(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    expect_problem(await shared_client.post(USERS, json={"email": user["email"]}), 409, "email_taken")

    await shared_client.delete(user_url(user))
    assert (await shared_client.post(USERS, json={"email": user["email"]})).status_code == 201


async def test_an_external_id_belongs_to_one_living_user(shared_client: httpx.AsyncClient) -> None:
    key = unique_email()
    user = await make_user(shared_client, external_id=key)

    again = await shared_client.post(USERS, json={"email": unique_email(), "external_id": key})
    expect_problem(again, 409, "external_id_taken")

    await shared_client.delete(user_url(user))
    await make_user(shared_client, external_id=key)


async def test_external_ids_are_compared_exactly(shared_client: httpx.AsyncClient) -> None:
    key = unique_email()

    for spelling in (key, key.upper(), f" {key}", f"{key}/"):
        assert (await make_user(shared_client, external_id=spelling))["external_id"] == spelling


WRONG = {
    "email": [
        None,
        7,
        True,
        [],
        {},
        "",
        "ada",
        "@example.org",
        "ada@",
        "a b@example.org",
        "ada@localhost",
        "a@b@c.org",
    ],
    "email_verified": [None, 1, "true", []],
    "external_id": ["", 7, "a\0b", "x" * 256, "line\nbreak"],
    "aliases": [
        None,
        "a@example.org",
        {},
        [7],
        ["ada"],
        [None],
        ["a@example.org", "A@EXAMPLE.org"],
        [f"a{number}@example.org" for number in range(11)],
    ],
    "username": ["", " ", "\u3000", 7, "a\0b", "x" * 256, "line\nbreak", ["ada"]],
    "given_name": [7, "x" * 201, "nul\0", "tab\t", ["Ada"]],
    "family_name": [False, "\x1b[31m", "\x85"],
    "display_name": [{}, "x" * 201],
    "phone": [
        "",
        "442071838750",
        "+0123456",
        "+44 20 7183 8750 1234 567",
        "44 20",
        "+44/20",
        "+" + "1" * 16,
        "+1",
        "+44\n",
        "+4420٧1838750",
        44,
    ],
    "locale": ["", "e", "en__GB", "_en", "British English", "en-GB\n", "en-", "i-unknown", "en-GB-oedx-", "i", 7],
    "timezone": ["", "Europe/Londinium", "../../etc/passwd", "europe/london", "UTC+1", 0],
    "status": ["deleted", "Active", "", None, 1],
    "preferences": [None, [], "{}", 7, {"big": "x" * 16_384}],
    "metadata": [None, [], "{}", {"": 1}, {"a": []}, {"a": {}}, {"a\0": 1}, {"a": "\0"}, {"big": "x" * 16_384}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
async def test_a_wrong_value_is_refused_at_its_place(
    shared_client: httpx.AsyncClient, field: str, value: object
) -> None:
    response = await shared_client.post(USERS, json={"email": unique_email(), field: value})

    problem = expect_problem(response, 422, "validation_failed")
    assert problem["errors"]
    assert all(fault["pointer"].startswith(f"/{field}") for fault in problem["errors"])
    assert all(fault["code"] and fault["detail"] for fault in problem["errors"])


async def test_the_email_is_required(shared_client: httpx.AsyncClient) -> None:
    fault = expect_fault(await shared_client.post(USERS, json={}), "/email")

    assert (fault["code"], fault["detail"]) == ("missing", "is required")


@pytest.mark.parametrize(
    "field", ["id", "version", "created_at", "deleted_at", "password", "Email", "__proto__", "a/b~c"]
)
async def test_unknown_and_given_fields_are_refused(shared_client: httpx.AsyncClient, field: str) -> None:
    response = await shared_client.post(USERS, json={"email": unique_email(), field: "x"})

    fault = expect_fault(response, "/" + field.replace("~", "~0").replace("/", "~1"))
    assert fault["code"] == "extra_forbidden"


async def test_every_fault_is_listed(shared_client: httpx.AsyncClient) -> None:
    response = await shared_client.post(USERS, json={"email": "x", "phone": "x", "locale": "?", "more": 1})

    places = {fault["pointer"] for fault in expect_problem(response, 422, "validation_failed")["errors"]}
    assert places == {"/email", "/phone", "/locale", "/more"}


async def test_a_metadata_fault_points_at_its_key(shared_client: httpx.AsyncClient) -> None:
    response = await shared_client.post(USERS, json={"email": unique_email(), "metadata": {"str": ["no"], "int": 1}})

    problem = expect_problem(response, 422, "validation_failed")
    assert [fault["pointer"] for fault in problem["errors"]] == ["/metadata/str"]
