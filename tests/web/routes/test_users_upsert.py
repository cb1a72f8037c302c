"""PUT /users/by-external-id/{external_id}"""

from urllib.parse import quote

import httpx
import pytest

from support.api import USERS, created_path, expect_fault, expect_problem, make_user, unique_email, user_url


def place(external_id: str) -> str:
    return f"{USERS}/by-external-id/{quote(external_id, safe='')}"


async def test_an_upsert_makes_a_user_then_changes_it(shared_client: httpx.AsyncClient) -> None:
    key, email = unique_email(), unique_email()

    made = await shared_client.put(place(key), json={"email": email, "given_name": "Ada", "phone": None})
    changed = await shared_client.put(place(key), json={"email": email, "family_name": "King"})
    same = await shared_client.put(place(key), json={"email": email})

    assert (made.status_code, changed.status_code, same.status_code) == (201, 200, 200)
    assert created_path(made) == user_url(made.json())
    assert "location" not in changed.headers
    assert changed.json()["id"] == made.json()["id"]
    assert changed.json()["external_id"] == key
    assert (changed.json()["given_name"], changed.json()["family_name"]) == ("Ada", "King")
    assert [response.headers["etag"] for response in (made, changed, same)] == ['"1"', '"2"', '"2"']


@pytest.mark.parametrize("key", ["a/b", "a b", "ü", "%", "%2F", "..", ".", "a?b#c", "+", "me", "x" * 255, "ü" * 255])
async def test_an_external_id_may_hold_any_printable_character(shared_client: httpx.AsyncClient, key: str) -> None:
    email = unique_email()

    made = await shared_client.put(place(key).replace("/..", "/%2E%2E").replace("/.", "/%2E"), json={"email": email})

    assert made.json()["external_id"] == key, made.text
    assert (await shared_client.get(USERS, params={"external_id": key})).json()["items"] == [made.json()]
    await shared_client.delete(user_url(made.json()))


@pytest.mark.parametrize("path", ["", "%00", "a%0Ab", "%0A", "a%7F", "%FF", "a%C3", "%ED%A0%80", "x" * 256])
async def test_what_can_be_no_external_id_is_refused(shared_client: httpx.AsyncClient, path: str) -> None:
    response = await shared_client.put(f"{USERS}/by-external-id/{path}", json={"email": unique_email()})

    expect_fault(response, "path:external_id") if "%F" not in path and "%C" not in path and "%E" not in path else (
        expect_problem(response, 400, "bad_request")
    )


async def test_the_body_may_repeat_the_external_id_only(shared_client: httpx.AsyncClient) -> None:
    key = unique_email()

    made = await shared_client.put(place(key), json={"email": unique_email(), "external_id": key})
    other = await shared_client.put(place(key), json={"email": unique_email(), "external_id": "another"})

    assert made.status_code == 201
    expect_fault(other, "/external_id")
    expect_fault(
        await shared_client.put(place(key), json={"email": unique_email(), "external_id": None}), "/external_id"
    )


async def test_the_email_is_required_and_unique(shared_client: httpx.AsyncClient) -> None:
    other = await make_user(shared_client)

    expect_fault(await shared_client.put(place("x"), json={}), "/email")
    expect_problem(await shared_client.put(place("x"), json={"email": other["email"]}), 409, "email_taken")


async def test_a_deleted_users_external_id_is_free_again(shared_client: httpx.AsyncClient) -> None:
    key = unique_email()
    first = (await shared_client.put(place(key), json={"email": unique_email()})).json()
    await shared_client.delete(user_url(first))

    second = await shared_client.put(place(key), json={"email": unique_email()})

    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


async def test_a_condition_holds_for_an_upsert_too(shared_client: httpx.AsyncClient) -> None:
    key, email = unique_email(), unique_email()
    body = {"email": email, "given_name": "Ada"}

    for condition in ('"1"', "*"):
        response = await shared_client.put(place(key), json=body, headers={"If-Match": condition})
        expect_problem(response, 412, "version_mismatch")
    await shared_client.put(place(key), json={"email": email})
    stale = await shared_client.put(place(key), json=body, headers={"If-Match": '"2"'})
    expect_problem(stale, 412, "version_mismatch")
    for condition in ('"1"', "*"):
        response = await shared_client.put(place(key), json=body, headers={"If-Match": condition})
        assert (response.status_code, response.headers["etag"]) == (200, '"2"')


async def test_a_status_is_taken_at_the_making_and_follows_its_transitions_after(
    shared_client: httpx.AsyncClient,
) -> None:
    key, email = unique_email(), unique_email()

    made = await shared_client.put(place(key), json={"email": email, "status": "pending"})
    active = await shared_client.put(place(key), json={"email": email, "status": "active"})
    back = await shared_client.put(place(key), json={"email": email, "status": "pending"})

    assert (made.json()["status"], active.json()["status"]) == ("pending", "active")
    expect_problem(back, 409, "invalid_transition")
