"""Changes that one statement writes, while other transactions hold what it needs"""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from support.api import USERS, expect_problem, make_user, unique_email, user_url
from support.application import running
from support.batch_service import BatchService
from support.settings import make_settings
from user_service.users.change_log import Origin
from user_service.users.schemas import UserCreate, UserUpdate
from user_service.users.single_statement import NotAtOnce

ORIGIN = Origin("test", "r-1", "00-" + "1" * 32 + "-" + "1" * 16 + "-01")


async def wait_behind(service: BatchService, lock: str, *arguments: Any, request: Any, then: str) -> httpx.Response:
    """The response to a request that waits for a transaction, which then runs another statement and commits."""
    async with service.database.acquire() as connection:
        async with connection.transaction():
            await connection.execute(lock, *arguments)
            waiting = asyncio.create_task(request)
            await service.wait_for_lock_waiters()
            await connection.execute(then, *arguments)
        response: httpx.Response = await waiting
    return response


async def test_a_change_that_was_overtaken_is_made_to_the_newer_version(service: BatchService) -> None:
    (user_id,) = await service.make(1)

    response = await wait_behind(
        service,
        "SELECT FROM users WHERE id = $1 FOR UPDATE",
        user_id,
        request=service.client.patch(f"{USERS}/{user_id}", json={"given_name": "Ada"}),
        then="UPDATE users SET version = version + 1, locale = 'en-GB' WHERE id = $1",
    )

    assert response.status_code == 200
    assert {name: response.json()[name] for name in ("version", "given_name", "locale")} == {
        "version": 3,
        "given_name": "Ada",
        "locale": "en-GB",
    }
    assert [version for version, _ in await service.read_changes(user_id)] == [1, 3]


async def test_a_condition_is_checked_against_the_newer_version(service: BatchService) -> None:
    (user_id,) = await service.make(1)

    response = await wait_behind(
        service,
        "SELECT FROM users WHERE id = $1 FOR UPDATE",
        user_id,
        request=service.client.patch(f"{USERS}/{user_id}", json={"given_name": "Ada"}, headers={"If-Match": '"1"'}),
        then="UPDATE users SET version = version + 1 WHERE id = $1",
    )

    expect_problem(response, 412, "version_mismatch")


async def test_a_change_of_a_user_that_was_purged_meanwhile_finds_none(service: BatchService) -> None:
    (user_id,) = await service.make(1)

    response = await wait_behind(
        service,
        "SELECT FROM users WHERE id = $1 FOR UPDATE",
        user_id,
        request=service.client.post(f"{USERS}/{user_id}/login"),
        then="DELETE FROM users WHERE id = $1",
    )

    expect_problem(response, 404, "user_not_found")
    assert [version for version, _ in await service.read_changes(user_id)] == [1]


@pytest.mark.parametrize("is_change", [False, True])
async def test_an_address_that_is_claimed_meanwhile_is_taken(service: BatchService, is_change: bool) -> None:
    email = unique_email()
    (holder,) = await service.make(1, email=email)
    (user_id,) = await service.make(1)
    before = await service.user(user_id)
    changes, pending = await service.count("user_changes"), await service.count("outbox")

    async with service.database.acquire() as connection:
        row = await connection.fetchrow("DELETE FROM identifiers WHERE user_id = $1 RETURNING kind, index", holder)
        async with connection.transaction():
            await connection.execute("INSERT INTO identifiers (kind, index, user_id) VALUES ($1, $2, $3)", *row, holder)
            waiting = asyncio.create_task(
                service.client.patch(f"{USERS}/{user_id}", json={"email": email})
                if is_change
                else service.client.post(USERS, json={"email": email})
            )
            await service.wait_for_lock_waiters()
        response = await waiting

    expect_problem(response, 409, "email_taken")
    assert await service.user(user_id) == before
    assert (await service.count("user_changes"), await service.count("outbox")) == (changes, pending)
    assert await service.count("users") == 2


async def test_a_change_is_whole(service: BatchService) -> None:
    (user_id,) = await service.make(1, username="ada", aliases=[unique_email()], given_name="Ada")
    email = unique_email()

    changed = await service.client.patch(
        f"{USERS}/{user_id}", json={"email": email, "username": None, "aliases": [], "family_name": "King"}
    )

    assert changed.status_code == 200
    found = await service.client.get(USERS, params={"q": "ada king"})
    assert [user["id"] for user in found.json()["items"]] == [user_id]
    assert await service.count(f"identifiers WHERE user_id = '{user_id}'") == 1
    again = await service.client.post(USERS, json={"email": unique_email(), "username": "ada"})
    assert again.status_code == 201
    assert await service.read_changes(user_id) == [(1, "created"), (2, "updated")]
    assert await service.count(f"outbox WHERE user_id = '{user_id}'") == 2


@pytest.mark.parametrize("second", ["create", "update"])
async def test_two_operations_are_not_written_at_once(database_url: str, tmp_path: Path, second: str) -> None:
    async with running(make_settings(database_url, tmp_path)) as client:
        user = await make_user(client)
        user_id = UUID(user["id"])
        database = client.resources.open_services().database

        async def write_both() -> None:
            async with database.single_statement(ORIGIN) as (users, _):
                await users.update([(user_id, None, UserUpdate(given_name="Ada"))])
                if second == "create":
                    await users.create([UserCreate(email=unique_email())])
                else:
                    await users.update([(user_id, None, UserUpdate(given_name="Eve"))])

        with pytest.raises(NotAtOnce):
            await write_both()
        assert (await client.get(user_url(user))).json() == user
