"""DELETE, restore, suspend, activate, login, purge"""

from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, expect_fault, expect_problem, make_user, user_url

FRESH = {"Cache-Control": "no-cache"}


async def act(client: httpx.AsyncClient, user: dict[str, Any], verb: str) -> httpx.Response:
    return await client.post(user_url(user, f"/{verb}"))


async def test_a_deletion_is_soft_and_a_restore_takes_it_back(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client, status="pending", given_name="Ada")

    gone = await shared_client.delete(user_url(user))
    back = await act(shared_client, user, "restore")

    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-type" not in gone.headers
    assert (back.status_code, back.headers["etag"]) == (200, '"3"')
    assert back.json() == user | {"version": 3, "updated_at": back.json()["updated_at"]}
    assert (await shared_client.get(user_url(user), headers=FRESH)).json() == back.json()


async def test_a_deleted_user_can_not_be_deleted_again(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)
    await shared_client.delete(user_url(user))

    expect_problem(await shared_client.delete(user_url(user)), 404, "user_not_found")


async def test_restore_refuses_when_the_email_was_reused(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)
    await shared_client.delete(user_url(user))
    other = await make_user(shared_client, email=user["email"].upper())

    expect_problem(await act(shared_client, user, "restore"), 409, "email_taken")

    await shared_client.delete(user_url(other))
    assert (await act(shared_client, user, "restore")).json()["version"] == 3


async def test_restore_refuses_when_the_external_id_was_reused(shared_client: httpx.AsyncClient) -> None:
    key = str(uuid4())
    user = await make_user(shared_client, external_id=key)
    await shared_client.delete(user_url(user))
    await make_user(shared_client, external_id=key)

    expect_problem(await act(shared_client, user, "restore"), 409, "external_id_taken")


MOVES = {
    ("pending", "activate"): "active",
    ("suspended", "activate"): "active",
    ("pending", "suspend"): "suspended",
    ("active", "suspend"): "suspended",
    ("active", "activate"): None,
    ("suspended", "suspend"): None,
    ("pending", "restore"): None,
    ("active", "restore"): None,
    ("suspended", "restore"): None,
}


@pytest.mark.parametrize(("status", "verb"), MOVES)
async def test_transitions_are_those_that_make_sense(shared_client: httpx.AsyncClient, status: str, verb: str) -> None:
    user = await make_user(shared_client, status=status)
    becomes = MOVES[status, verb]

    response = await act(shared_client, user, verb)

    if becomes is None:
        expect_problem(response, 409, "invalid_transition")
    else:
        assert (response.status_code, response.json()["status"], response.json()["version"]) == (200, becomes, 2)


@pytest.mark.parametrize("verb", ["suspend", "activate", "login"])
async def test_nothing_moves_a_deleted_user_but_a_restore(shared_client: httpx.AsyncClient, verb: str) -> None:
    user = await make_user(shared_client)
    await shared_client.delete(user_url(user))

    expect_problem(await act(shared_client, user, verb), 404, "user_not_found")


@pytest.mark.parametrize("verb", ["restore", "suspend", "activate", "login"])
async def test_an_unknown_user_is_not_found(shared_client: httpx.AsyncClient, verb: str) -> None:
    expect_problem(await shared_client.post(f"{USERS}/{uuid4()}/{verb}"), 404, "user_not_found")


async def test_a_login_sets_its_time(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    response = await act(shared_client, user, "login")

    seen = (await shared_client.get(user_url(user))).json()
    assert (response.status_code, response.content) == (204, b"")
    assert datetime.fromisoformat(seen["last_login_at"]) >= datetime.fromisoformat(user["created_at"])
    assert seen == user | {key: seen[key] for key in ("last_login_at", "updated_at")} | {"version": 2}


@pytest.mark.parametrize("deleted_before", [False, True])
async def test_a_purge_leaves_nothing_to_read_or_restore(
    shared_client: httpx.AsyncClient, deleted_before: bool
) -> None:
    user = await make_user(shared_client, given_name="Ada")
    if deleted_before:
        await shared_client.delete(user_url(user))

    response = await shared_client.delete(user_url(user), params={"purge": "true"})

    assert response.status_code == 204
    for again in (
        await shared_client.get(user_url(user), params={"include": "deleted"}),
        await shared_client.get(user_url(user), params={"include": "deleted"}, headers=FRESH),
        await act(shared_client, user, "restore"),
        await shared_client.delete(user_url(user), params={"purge": "true"}),
    ):
        expect_problem(again, 404, "user_not_found")
    await make_user(shared_client, email=user["email"])


@pytest.mark.parametrize("value", ["maybe", "", "2", "true,false"])
async def test_purge_is_true_or_false(shared_client: httpx.AsyncClient, value: str) -> None:
    user = await make_user(shared_client)

    expect_fault(await shared_client.delete(user_url(user), params={"purge": value}), "?purge")

    assert (await shared_client.get(user_url(user), headers=FRESH)).json() == user
