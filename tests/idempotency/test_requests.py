import asyncio
from collections import Counter
from typing import Any

import pytest

from support.api import USERS
from support.batch_service import BatchService, creation, outcomes
from support.settings import OTHER_API_KEY

pytestmark = pytest.mark.anyio
REPLAYED = "idempotency-replayed"


def keyed(key: str = "a-key", **others: str) -> dict[str, str]:
    return {"Idempotency-Key": key, **others}


async def test_a_create_under_one_key_is_one_user(service: BatchService) -> None:
    body = creation()["data"]

    first = await service.client.post(USERS, json=body, headers=keyed())
    again = await service.client.post(USERS, json=body, headers=keyed())

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert {name: again.headers[name] for name in ("etag", "location", "content-type")} == {
        name: first.headers[name] for name in ("etag", "location", "content-type")
    }
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    assert await service.count("users") == 1


async def test_every_write_of_one_user_is_given_again(service: BatchService) -> None:
    (user_id,) = await service.make(1)
    address = f"{USERS}/{user_id}"
    requests: list[tuple[str, str, Any]] = [
        ("PATCH", address, {"given_name": "Ada"}),
        ("PUT", f"{USERS}/by-external-id/x-1", {"email": "upsert@example.org"}),
        ("POST", f"{address}/suspend", None),
        ("POST", f"{address}/activate", None),
        ("POST", f"{address}/login", None),
        ("DELETE", address, None),
        ("POST", f"{address}/restore", None),
        ("DELETE", f"{address}?purge=true", None),
    ]
    for number, (method, url, body) in enumerate(requests):
        first = await service.client.request(method, url, json=body, headers=keyed(f"key-{number}"))
        before = await service.count("user_changes")
        again = await service.client.request(method, url, json=body, headers=keyed(f"key-{number}"))

        assert first.is_success, first.text
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers[REPLAYED] == "true"
        assert await service.count("user_changes") == before


@pytest.mark.parametrize("verb", ["create", "update", "delete", "restore"])
async def test_every_batch_is_given_again(service: BatchService, verb: str) -> None:
    (user_id,) = await service.make(1)
    if verb == "restore":
        await service.batch("delete", [{"id": user_id}])
    items = {"create": [creation()], "update": [{"id": user_id, "data": {"given_name": "A"}}]}
    sent = items.get(verb, [{"id": user_id}])

    first = await service.batch(verb, sent, key="k")
    changes = await service.count("user_changes")
    again = await service.batch(verb, sent, key="k")

    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers[REPLAYED] == "true"
    assert await service.count("user_changes") == changes


async def test_another_request_under_the_key_is_refused(service: BatchService) -> None:
    body = creation()["data"]
    await service.client.post(USERS, json=body, headers=keyed())

    others = [
        await service.client.post(USERS, json=creation()["data"], headers=keyed()),
        await service.client.put(f"{USERS}/by-external-id/x", json=body, headers=keyed()),
        await service.batch("create", [{"data": body}], key="a-key"),
    ]

    assert [(response.status_code, response.json()["code"]) for response in others] == [
        (422, "idempotency_key_reused")
    ] * 3
    assert await service.count("users") == 1


async def test_keys_belong_to_their_principal(service: BatchService) -> None:
    first = await service.client.post(USERS, json=creation()["data"], headers=keyed())
    other = await service.client.post(USERS, json=creation()["data"], headers=keyed(**{"X-API-Key": OTHER_API_KEY}))

    assert (first.status_code, other.status_code) == (201, 201)


@pytest.mark.parametrize("door", ["single", "batch"])
async def test_twenty_at_once_have_one_effect(service: BatchService, door: str) -> None:
    items = [creation() for _ in range(100)]

    async def send() -> Any:
        if door == "batch":
            return await service.batch("create", items, key="k")
        return await service.client.post(USERS, json=items[0]["data"], headers=keyed("k"))

    responses = await asyncio.gather(*(send() for _ in range(20)))
    last = await send()

    seen = Counter((response.status_code, response.headers.get(REPLAYED)) for response in responses)
    success = 200 if door == "batch" else 201
    assert seen.pop((success, None)) == 1
    assert set(seen) <= {(success, "true"), (409, None)}
    refusals = {response.json()["code"] for response in responses if response.status_code == 409}
    assert refusals <= {"idempotency_in_progress"}
    assert len({response.content for response in [*responses, last] if response.is_success}) == 1
    assert last.headers[REPLAYED] == "true"
    assert await service.count("users") == (100 if door == "batch" else 1)


async def test_a_request_in_flight_is_not_waited_for(service: BatchService) -> None:
    (user_id,) = await service.make(1)
    patch = {"given_name": "Ada"}
    async with service.database.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", user_id)
        first = asyncio.create_task(service.client.patch(f"{USERS}/{user_id}", json=patch, headers=keyed()))
        await service.wait_for_lock_waiters()
        second = await service.client.patch(f"{USERS}/{user_id}", json=patch, headers=keyed())

    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_progress")
    assert second.headers["retry-after"] == "1"
    assert (await first).status_code == 200


async def test_decisions_of_the_database_are_stored_and_client_errors_are_not(service: BatchService) -> None:
    (user_id,) = await service.make(1, email="taken@example.org")
    address = f"{USERS}/{user_id}"

    async def twice(method: str, url: str, body: Any, key: str, **headers: str) -> tuple[int, bool]:
        for _ in range(2):
            response = await service.client.request(method, url, json=body, headers=keyed(key, **headers))
        return response.status_code, REPLAYED in response.headers

    assert await twice("POST", USERS, {"email": "taken@example.org"}, "taken") == (409, True)
    assert await twice("PATCH", address, {}, "stale", **{"If-Match": '"7"'}) == (412, True)
    assert await twice("POST", f"{USERS}/{user_id[:-4]}0000/login", None, "lost") == (404, True)
    assert await twice("POST", USERS, {"email": "no"}, "wrong") == (422, False)
    mended = await service.client.post(USERS, json={"email": "mended@example.org"}, headers=keyed("wrong"))
    assert mended.status_code == 201


async def test_a_refused_atomic_batch_is_stored_unless_an_item_was_malformed(service: BatchService) -> None:
    await service.make(1, email="taken@example.org")
    taken, wrong = creation(email="taken@example.org"), creation(email="no")

    for _ in range(2):
        kept = await service.batch("create", [taken], mode="atomic", key="taken")
        lost = await service.batch("create", [taken, wrong], mode="atomic", key="wrong")

    assert (kept.status_code, kept.headers.get(REPLAYED)) == (409, "true")
    assert kept.headers["content-type"] == "application/problem+json"
    assert (lost.status_code, lost.headers.get(REPLAYED)) == (409, None)


async def test_a_dry_run_leaves_its_key_free(service: BatchService) -> None:
    items = [creation()]
    await service.batch("create", items, dry_run=True, key="k")

    response = await service.batch("create", items, key="k")

    assert outcomes(response) == ["created"]
    assert REPLAYED not in response.headers


async def test_after_a_day_a_key_is_new_and_old_ones_are_cleared(service: BatchService) -> None:
    for number in range(5):
        await service.client.post(USERS, json=creation()["data"], headers=keyed(f"key-{number}"))
    remaining = "SELECT extract(epoch FROM min(expires_at) - now()) FROM idempotency_keys"
    assert 86_000 < await service.database.fetchval(remaining) <= 86_400
    await service.database.execute("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")

    response = await service.client.post(USERS, json=creation()["data"], headers=keyed("key-0"))

    assert response.status_code == 201
    assert REPLAYED not in response.headers
    assert await service.count("idempotency_keys") == 1


async def test_stored_responses_are_encrypted(service: BatchService) -> None:
    await service.client.post(USERS, json={"email": "ada@example.org"}, headers=keyed("ada@example.org"))

    (row,) = await service.database.fetch("SELECT * FROM idempotency_keys")

    assert all(b"ada@" not in value for value in row.values() if isinstance(value, bytes))


@pytest.mark.parametrize("length", [0, 1, 255, 256])
async def test_keys_have_1_to_255_characters(service: BatchService, length: int) -> None:
    response = await service.client.post(USERS, json=creation()["data"], headers=keyed("k" * length))

    if length in (1, 255):
        assert response.status_code == 201
    else:
        assert response.status_code == 422
        assert response.json()["errors"][0]["pointer"] == "header:Idempotency-Key"
