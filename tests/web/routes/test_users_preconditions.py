"""If-Match on every write"""

from typing import Any

import httpx
import pytest

from support.api import expect_problem, make_user, user_url

WRITES: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "update": ("PATCH", "", {"given_name": "Ada"}),
    "delete": ("DELETE", "", None),
    "purge": ("DELETE", "?purge=true", None),
    "suspend": ("POST", "/suspend", None),
    "activate": ("POST", "/activate", None),
    "restore": ("POST", "/restore", None),
}


async def write(client: httpx.AsyncClient, name: str, user: dict[str, Any], if_match: str) -> httpx.Response:
    method, ending, body = WRITES[name]
    headers = [("If-Match", if_match.encode("latin-1"))]
    return await client.request(method, user_url(user, ending), json=body, headers=headers)


async def user_for(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    user = await make_user(client, status="pending")
    if name == "restore":
        await client.delete(user_url(user))
        user["version"] = 2
    return user


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_on_the_version_that_was_seen_applies(shared_client: httpx.AsyncClient, name: str) -> None:
    user = await user_for(shared_client, name)

    assert (await write(shared_client, name, user, f'"{user["version"]}"')).is_success


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("tag", ['"7"', '"0"', '"01"', '"12345678901234567890"', '"abc"', 'W/"1"', '""', '"ü"', ""])
async def test_a_write_on_another_version_is_refused(shared_client: httpx.AsyncClient, name: str, tag: str) -> None:
    user = await user_for(shared_client, name)

    expect_problem(await write(shared_client, name, user, tag), 412, "version_mismatch")

    seen = await shared_client.get(user_url(user, "?include=deleted"), headers={"Cache-Control": "no-cache"})
    assert seen.json()["version"] == user["version"]


@pytest.mark.parametrize("tag", ["1", '"1', '"1" "2"', "*, *", '*, "1"', "W/1", 'w/"1"', "\x80", '"1";'])
async def test_what_is_no_entity_tag_is_refused(shared_client: httpx.AsyncClient, tag: str) -> None:
    user = await make_user(shared_client)

    problem = expect_problem(await write(shared_client, "update", user, tag), 400, "invalid_header")

    assert "If-Match" in problem["detail"]


async def test_a_star_asks_for_any_version(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    assert (await write(shared_client, "update", user, "*")).headers["etag"] == '"2"'
    assert (await write(shared_client, "update", user, ' "2" ')).headers["etag"] == '"2"'


async def test_a_stale_version_is_named_with_the_remedy(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    problem = expect_problem(await write(shared_client, "update", user, '"4"'), 412, "version_mismatch")

    assert "at version 1" in problem["detail"]
    assert "read it again" in problem["detail"]
