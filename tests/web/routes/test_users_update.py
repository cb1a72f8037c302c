"""PATCH /users/{id}: a JSON merge patch"""

from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, expect_fault, expect_problem, make_user, unique_email, user_url


async def patch(client: httpx.AsyncClient, user: dict[str, Any], **changes: Any) -> dict[str, Any]:
    response = await client.patch(user_url(user), json=changes)
    assert response.status_code == 200, response.text
    changed: dict[str, Any] = response.json()
    return changed


async def test_a_patch_changes_what_it_names_and_nothing_else(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client, given_name="Ada", phone="+442071838750")

    changed = await patch(shared_client, user, given_name="Augusta", phone=None)

    expected = user | {"given_name": "Augusta", "phone": None, "version": 2, "updated_at": changed["updated_at"]}
    assert changed == expected
    assert datetime.fromisoformat(changed["updated_at"]) > datetime.fromisoformat(user["updated_at"])
    assert (await shared_client.get(user_url(user))).json() == changed


async def test_objects_are_merged_and_null_removes(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(
        shared_client, preferences={"a": {"b": 1, "c": [1, 2]}, "d": 1}, metadata={"plan": "pro", "seats": 3}
    )

    changed = await patch(
        shared_client,
        user,
        preferences={"a": {"b": None, "c": [None]}, "d": {"e": {"f": None}}},
        metadata={"plan": None},
    )

    assert changed["preferences"] == {"a": {"c": [None]}, "d": {"e": {}}}
    assert changed["metadata"] == {"seats": 3}


async def test_null_empties_an_object(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client, preferences={"a": 1}, metadata={"b": 2})

    changed = await patch(shared_client, user, preferences=None, metadata=None)

    assert (changed["preferences"], changed["metadata"]) == ({}, {})


@pytest.mark.parametrize("content_type", ["application/json", "application/merge-patch+json; charset=UTF-8"])
async def test_both_content_types_will_do(shared_client: httpx.AsyncClient, content_type: str) -> None:
    user = await make_user(shared_client)

    response = await shared_client.patch(
        user_url(user), content=b'{"locale":"fr"}', headers={"Content-Type": content_type}
    )

    assert response.json()["locale"] == "fr"


@pytest.mark.parametrize(
    "changes", [{}, {"given_name": "Ada"}, {"metadata": {}}, {"metadata": {"gone": None}}, {"status": "active"}]
)
async def test_a_patch_that_changes_nothing_leaves_the_version(
    shared_client: httpx.AsyncClient, changes: dict[str, Any]
) -> None:
    user = await make_user(shared_client, given_name="Ada", metadata={"n": 1})

    assert await patch(shared_client, user, **changes) == user


@pytest.mark.parametrize("field", ["metadata", "preferences"])
@pytest.mark.parametrize(("before", "after"), [(1, True), (True, 1), (0, False), (1, 1.0), ("1", 1), (0, "")])
async def test_values_that_python_takes_for_equal_are_different(
    shared_client: httpx.AsyncClient, field: str, before: object, after: object
) -> None:
    user = await make_user(shared_client, **{field: {"x": before}})

    changed = await patch(shared_client, user, **{field: {"x": after}})

    assert changed["version"] == 2
    assert repr(changed[field]["x"]) == repr(after)
    stored = await shared_client.get(user_url(user), headers={"Cache-Control": "no-cache"})
    assert repr(stored.json()[field]["x"]) == repr(after)


async def test_a_changed_email_is_unverified_unless_the_patch_says_so(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client, email_verified=True)

    assert not (await patch(shared_client, user, email=unique_email()))["email_verified"]
    assert (await patch(shared_client, user, email=unique_email(), email_verified=True))["email_verified"]


async def test_anothers_email_and_external_id_are_refused(shared_client: httpx.AsyncClient) -> None:
    other = await make_user(shared_client, external_id=unique_email())
    user = await make_user(shared_client)

    taken = await shared_client.patch(user_url(user), json={"email": other["email"].upper(), "given_name": "Ada"})
    expect_problem(taken, 409, "email_taken")
    taken = await shared_client.patch(user_url(user), json={"external_id": other["external_id"]})
    expect_problem(taken, 409, "external_id_taken")

    assert (await shared_client.get(user_url(user), headers={"Cache-Control": "no-cache"})).json() == user


@pytest.mark.parametrize("field", ["email", "email_verified", "status"])
async def test_null_is_refused_where_a_field_can_not_be_empty(shared_client: httpx.AsyncClient, field: str) -> None:
    user = await make_user(shared_client)

    expect_fault(await shared_client.patch(user_url(user), json={field: None}), f"/{field}")


@pytest.mark.parametrize("field", ["id", "version", "deleted_at", "last_login_at", "created_at"])
async def test_what_the_service_sets_is_refused(shared_client: httpx.AsyncClient, field: str) -> None:
    user = await make_user(shared_client)

    expect_fault(await shared_client.patch(user_url(user), json={field: user[field]}), f"/{field}")


@pytest.mark.parametrize("field", ["preferences", "metadata"])
async def test_an_object_may_not_outgrow_its_limit_by_merging(shared_client: httpx.AsyncClient, field: str) -> None:
    user = await make_user(shared_client, **{field: {"a": "x" * 9000}})

    fault = expect_fault(await shared_client.patch(user_url(user), json={field: {"b": "x" * 9000}}), f"/{field}")

    assert fault["code"] == "too_large"


async def test_a_status_follows_its_transitions(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    assert (await patch(shared_client, user, status="suspended"))["status"] == "suspended"
    expect_problem(await shared_client.patch(user_url(user), json={"status": "pending"}), 409, "invalid_transition")
    expect_fault(await shared_client.patch(user_url(user), json={"status": "deleted"}), "/status")


async def test_unknown_and_deleted_users_are_not_found(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)
    await shared_client.delete(user_url(user))

    for path in (user_url(user), f"{USERS}/{uuid4()}"):
        expect_problem(await shared_client.patch(path, json={"given_name": "Ada"}), 404, "user_not_found")
