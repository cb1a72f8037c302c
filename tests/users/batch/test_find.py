from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support.api import USERS
from support.batch_service import BatchService, batch_service

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]


async def find(service: BatchService, **keys: list[str]) -> Any:
    response = await service.client.post(f"{USERS}/batch/find", json=keys)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("tier", ["memory", "redis", "none"])
async def test_users_are_found_by_every_key_as_the_single_read_gives_them(
    database_url: str, redis_url: str, tmp_path: Path, tier: str
) -> None:
    others = {"memory": {}, "redis": {"redis_url": redis_url}, "none": {"cache": "none"}}[tier]
    async with batch_service(database_url, tmp_path, **others) as service:
        ids = await service.make(2, given_name="Ada")
        (by_email,) = await service.make(1, email="eda@example.org")
        (by_external_id,) = await service.make(1, external_id="x", aliases=["xx@example.org"])
        (by_username,) = await service.make(1, username="Straße 9")
        lost = str(uuid4())
        keys = {
            "ids": [ids[1], lost, ids[0], "no-id", by_email, ids[1]],
            "emails": ["EDA@example.org", "nobody@example.org", "no address", "XX@example.org"],
            "external_ids": ["x", "y", "nul\0"],
            "usernames": [" STRASSE ９", "no one", ""],
        }

        first, second = await find(service, **keys), await find(service, **keys)

        order = (ids[1], ids[0], by_email, by_external_id, by_username)
        expected = [await service.user(user_id) for user_id in order]
        assert first["found"] == expected
        assert first["missing"] == {
            "ids": [lost, "no-id"],
            "emails": ["nobody@example.org", "no address"],
            "external_ids": ["y", "nul\0"],
            "usernames": ["no one", ""],
        }
        assert second == first


async def test_deleted_users_are_missing_cached_or_not(service: BatchService) -> None:
    (user_id,) = await service.make(
        1, email="ada@example.org", external_id="x", username="ada", aliases=["ada@example.com"]
    )
    await service.batch("delete", [{"id": user_id}])
    emails = ["ada@example.org", "ada@example.com"]
    keys = {"ids": [user_id], "emails": emails, "external_ids": ["x"], "usernames": ["ada"]}

    for _ in range(2):
        assert await find(service, **keys) == {"found": [], "missing": keys}


async def test_nothing_asked_is_nothing_found(service: BatchService) -> None:
    nothing: dict[str, list[str]] = {"ids": [], "emails": [], "external_ids": [], "usernames": []}
    assert await find(service) == {"found": [], "missing": nothing}


async def test_cached_users_are_found_without_the_database(service: BatchService) -> None:
    ids = await service.make(3)
    before = await find(service, ids=ids)
    await service.database.execute("UPDATE users SET locale = 'xx'")

    cached = await find(service, ids=ids)
    fresh = await service.client.post(f"{USERS}/batch/find", json={"ids": ids}, headers={"Cache-Control": "no-cache"})

    assert cached == before
    assert {user["locale"] for user in fresh.json()["found"]} == {"xx"}


async def test_more_keys_than_a_batch_holds_are_refused(service: BatchService) -> None:
    response = await service.client.post(f"{USERS}/batch/find", json={"ids": ["a"] * 600, "emails": ["b"] * 401})

    assert response.status_code == 413
    assert "1,000" in response.json()["detail"]
