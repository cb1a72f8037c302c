"""Conditions of RFC 9110, 13.1 on every method: lists, `*`, weak and strong comparison, several header lines as one"""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, expect_problem, make_user, unique_email, user_url
from support.issuer import Issuer
from support.live_server import LiveServer

Lines = list[tuple[str, str]]
CHANGES: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "update": ("PATCH", "", {"given_name": "Ada"}),
    "delete": ("DELETE", "", None),
    "purge": ("DELETE", "?purge=true", None),
    "suspend": ("POST", "/suspend", None),
    "activate": ("POST", "/activate", None),
    "login": ("POST", "/login", None),
    "erase": ("POST", "/erase", None),
    "restore": ("POST", "/restore", None),
}
MET: dict[str, Lines] = {
    "a list": [("If-Match", '"9", "{version}"')],
    "empty elements": [("If-Match", ', "{version}" ,, "9",')],
    "a tag with a comma": [("If-Match", '"a,b", "{version}"')],
    "two lines": [("If-Match", '"9"'), ("if-match", '"{version}"')],
    "a star": [("If-Match", "*")],
    "another version": [("If-None-Match", '"9", W/"8"')],
    "no version": [("If-None-Match", '"x", "0{version}", "{version},"')],
    "both": [("If-Match", '"{version}"'), ("If-None-Match", '"9"')],
}
FAILED: dict[str, Lines] = {
    "a list of others": [("If-Match", '"8", "9"')],
    "a weak tag": [("If-Match", 'W/"{version}", "9"')],
    "a tag that holds a list": [("If-Match", '"9,{version},8"')],
    "two lines of others": [("If-Match", '"8"'), ("If-Match", '"9"')],
    "this version": [("If-None-Match", '"{version}"')],
    "this version weakly": [("If-None-Match", '"9", W/"{version}"')],
    "this version in the second line": [("If-None-Match", '"9"'), ("If-None-Match", '"{version}"')],
    "any version": [("If-None-Match", "*")],
    "one of both": [("If-Match", '"{version}"'), ("If-None-Match", "*")],
}


def lines_for(lines: Lines, version: int) -> Lines:
    return [(name, value.replace("{version}", str(version))) for name, value in lines]


async def user_for(client: httpx.AsyncClient, change: str) -> dict[str, Any]:
    user = await make_user(client, status="pending")
    if change == "restore":
        await client.delete(user_url(user))
        user["version"] = 2
    return user


async def send(client: httpx.AsyncClient, change: str, user: dict[str, Any], lines: Lines) -> httpx.Response:
    method, ending, body = CHANGES[change]
    return await client.request(method, user_url(user, ending), json=body, headers=lines_for(lines, user["version"]))


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_condition_is_met_applies(shared_client: httpx.AsyncClient, change: str) -> None:
    for name, lines in MET.items():
        user = await user_for(shared_client, change)

        response = await send(shared_client, change, user, lines)

        assert response.is_success, (name, response.text)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_condition_is_not_met_is_refused(shared_client: httpx.AsyncClient, change: str) -> None:
    user = await user_for(shared_client, change)

    for lines in FAILED.values():
        expect_problem(await send(shared_client, change, user, lines), 412, "version_mismatch")

    seen = await shared_client.get(user_url(user, "?include=deleted"), headers={"Cache-Control": "no-cache"})
    assert seen.json()["version"] == user["version"]


@pytest.mark.parametrize("field", ["3", '"3" "4"', '*, "3"', 'w/"3"', '"3'])
async def test_an_if_none_match_of_a_change_that_is_malformed_is_refused(
    shared_client: httpx.AsyncClient, field: str
) -> None:
    user = await make_user(shared_client)

    problem = expect_problem(
        await send(shared_client, "update", user, [("If-None-Match", field)]), 400, "invalid_header"
    )

    assert "If-None-Match" in problem["detail"]


async def test_a_user_that_does_not_exist_is_not_found_whatever_the_condition(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)
    await shared_client.delete(user_url(user, "?purge=true"))

    for lines in ([("If-Match", "*")], [("If-None-Match", "*")], [("If-Match", '"1"')]):
        expect_problem(await send(shared_client, "update", user, lines), 404, "user_not_found")


async def test_an_upsert_creates_only(shared_client: httpx.AsyncClient) -> None:
    url, email = f"{USERS}/by-external-id/{uuid4().hex}", unique_email()
    create_only = {"If-None-Match": "*"}

    first = await shared_client.put(url, json={"email": email}, headers=create_only)
    second = await shared_client.put(url, json={"email": unique_email()}, headers=create_only)

    assert first.status_code == 201
    assert "exists already" in expect_problem(second, 412, "version_mismatch")["detail"]
    assert (await shared_client.get(user_url(first.json()))).json() == first.json()


async def test_of_many_upserts_that_create_only_one_creates(shared_client: httpx.AsyncClient) -> None:
    url = f"{USERS}/by-external-id/{uuid4().hex}"

    responses = await asyncio.gather(
        *(shared_client.put(url, json={"email": unique_email()}, headers={"If-None-Match": "*"}) for _ in range(12))
    )

    assert sorted(response.status_code for response in responses) == [201] + [412] * 11


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        ([("If-None-Match", '"1"')], (201, 412)),
        ([("If-None-Match", 'W/"1"')], (201, 412)),
        ([("If-None-Match", '"2"')], (201, 200)),
        ([("If-Match", "*")], (412, 412)),
        ([("If-Match", '"1"')], (412, 412)),
    ],
)
async def test_a_condition_of_an_upsert_holds_without_a_user_too(
    shared_client: httpx.AsyncClient, lines: Lines, statuses: tuple[int, int]
) -> None:
    url, body = f"{USERS}/by-external-id/{uuid4().hex}", {"email": unique_email()}

    responses = [await shared_client.put(url, json=body, headers=lines) for _ in range(2)]

    assert tuple(response.status_code for response in responses) == statuses


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([("If-None-Match", '"9", W/"1"')], 304),
        ([("If-None-Match", '"9"'), ("If-None-Match", '"1"')], 304),
        ([("If-None-Match", "*")], 304),
        ([("If-None-Match", '"9,"1"')], 200),
        ([("If-None-Match", '"1,"'), ("If-None-Match", '",1"')], 200),
        ([("If-None-Match", "1")], 200),
        ([("If-Match", '"9", "1"')], 200),
        ([("If-Match", "*")], 200),
        ([("If-Match", '"9"')], 412),
        ([("If-Match", 'W/"1"')], 412),
        ([("If-Match", '"9"'), ("If-None-Match", '"1"')], 412),
        ([("If-Match", "1")], 400),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_read_meets_its_conditions(
    shared_client: httpx.AsyncClient, method: str, lines: Lines, status: int
) -> None:
    user = await make_user(shared_client)

    for cache_control in ("max-age=0", "no-cache"):
        headers = [*lines, ("Cache-Control", "max-age=0"), ("Cache-Control", cache_control)]
        response = await shared_client.request(method, user_url(user), headers=headers)
        assert response.status_code == status
        assert status not in (200, 304) or response.headers["etag"] == '"1"'


BATCHES: dict[str, dict[str, Any]] = {
    "create": {"items": [{"data": {"email": "conditional@example.org"}}]},
    "update": {"items": []},
    "delete": {"items": []},
    "restore": {"items": []},
    "find": {"ids": []},
}


@pytest.mark.parametrize("batch", BATCHES)
async def test_no_entity_tag_matches_a_batch(shared_client: httpx.AsyncClient, batch: str) -> None:
    url, body = f"{USERS}/batch/{batch}", BATCHES[batch]

    for tags in ('"1"', "*", ""):
        expect_problem(await shared_client.post(url, json=body, headers={"If-Match": tags}), 412, "version_mismatch")
    expect_problem(await shared_client.post(url, json=body, headers={"If-Match": "1"}), 400, "invalid_header")
    assert (await shared_client.get(USERS, params={"email": "conditional@example.org"})).json()["items"] == []

    empty = {name: [] for name, value in body.items() if isinstance(value, list)}
    assert (await shared_client.post(url, json=empty, headers={"If-None-Match": '"1", *'})).status_code == 400
    assert (await shared_client.post(url, json=empty, headers={"If-None-Match": "*"})).is_success


async def test_the_list_exists_and_has_no_entity_tag(shared_client: httpx.AsyncClient) -> None:
    async def create(lines: Lines) -> httpx.Response:
        return await shared_client.post(USERS, json={"email": unique_email()}, headers=lines)

    assert (await create([("If-Match", "*")])).status_code == 201
    assert (await create([("If-None-Match", '"1"')])).status_code == 201
    expect_problem(await create([("If-Match", '"1"')]), 412, "version_mismatch")
    expect_problem(await create([("If-None-Match", "*")]), 412, "version_mismatch")
    csv = {"Content-Type": "text/csv", "If-Match": '"1"'}
    expect_problem(
        await shared_client.post(f"{USERS}/imports", content=b"email\n", headers=csv), 412, "version_mismatch"
    )


@pytest.fixture
def own(server: LiveServer, shared_issuer: Issuer) -> Iterator[httpx.Client]:
    """A client with the token of a new user, who is at version 1."""
    with server.client() as client:
        user = create_user(client)
    with server.client(Authorization=f"Bearer {shared_issuer.token(sub=user['id'])}") as own:
        yield own


def test_ones_own_user_is_read_and_changed_on_conditions(own: httpx.Client) -> None:
    def patch(lines: Lines) -> int:
        return own.patch(f"{USERS}/me", json={"given_name": "Ada"}, headers=lines).status_code

    def get(lines: Lines) -> int:
        return own.get(f"{USERS}/me", headers=lines).status_code

    assert [patch([("If-None-Match", tags)]) for tags in ("*", '"1"', 'W/"1"')] == [412, 412, 412]
    assert [get([("If-Match", tags)]) for tags in ('"2"', 'W/"1"', '"1"', "*")] == [412, 412, 200, 200]
    assert get([("If-None-Match", '"2"'), ("If-None-Match", '"1"')]) == 304
    assert patch([("If-Match", '"2"'), ("If-Match", '"1"')]) == 200


KEYED: dict[str, tuple[str, str, Any]] = {
    "create": ("POST", USERS, {"email": "two-keys@example.org"}),
    "upsert": ("PUT", f"{USERS}/by-external-id/two-keys", {"email": "two-keys@example.org"}),
    "batch": ("POST", f"{USERS}/batch/create", {"items": [{"data": {"email": "two-keys@example.org"}}]}),
    "import": ("POST", f"{USERS}/imports", None),
    "find": ("POST", f"{USERS}/batch/find", {"emails": ["two-keys@example.org"]}),
    "warm": ("POST", "/api/v1/cache/warm", {"limit": 1}),
}


@pytest.mark.parametrize("request_name", KEYED)
async def test_two_different_idempotency_keys_are_refused(client: httpx.AsyncClient, request_name: str) -> None:
    method, url, body = KEYED[request_name]
    content: dict[str, Any] = {"json": body} if body else {"content": b"email\ntwo-keys@example.org\n"}
    own = [] if body else [("Content-Type", "text/csv")]

    async def send_keys(*keys: str) -> httpx.Response:
        return await client.request(method, url, headers=[*own, *(("Idempotency-Key", key) for key in keys)], **content)

    problem = expect_problem(await send_keys("one", "two"), 400, "invalid_header")
    assert "Idempotency-Key" in problem["detail"]
    assert (await client.get(USERS)).json()["items"] == []

    assert (await send_keys("one", "one")).is_success


async def test_the_same_key_with_another_condition_is_another_request(shared_client: httpx.AsyncClient) -> None:
    url, body = f"{USERS}/by-external-id/{uuid4().hex}", {"email": unique_email()}
    key = {"Idempotency-Key": uuid4().hex}

    first = await shared_client.put(url, json=body, headers={**key, "If-None-Match": "*"})
    again = await shared_client.put(url, json=body, headers={**key, "If-None-Match": "*"})

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotency-replayed"] == "true"
    for other in ({}, {"If-None-Match": '"1"'}, {"If-Match": "*", "If-None-Match": "*"}):
        response = await shared_client.put(url, json=body, headers={**key, **other})
        expect_problem(response, 422, "idempotency_key_reused")
