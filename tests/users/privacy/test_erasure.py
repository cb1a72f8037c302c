"""`POST /users/{id}/erase`: a tombstone stays, and nothing comes back"""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from support.api import USERS, expect_problem, make_user, user_url
from support.application import Client, running
from support.issuer import AUDIENCE, Issuer
from support.leftovers import PERSON, words_in
from support.settings import make_settings
from user_service.encryption.cipher import Cipher
from user_service.idempotency.stored_responses import IDEMPOTENCY_KEYS

pytestmark = pytest.mark.distributed


async def erase(client: httpx.AsyncClient, user: dict[str, Any], **headers: str) -> httpx.Response:
    return await client.post(user_url(user, "/erase"), headers=headers)


async def read_tombstone(client: httpx.AsyncClient, user: dict[str, Any], **headers: str) -> httpx.Response:
    return await client.get(user_url(user), params={"include": "deleted"}, headers=headers)


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_tombstone_has_an_id_a_version_and_times(client: httpx.AsyncClient, deleted: bool) -> None:
    user = await make_user(client, **PERSON)
    await client.post(user_url(user, "/login"))
    if deleted:
        await client.delete(user_url(user))

    response = await erase(client, user)

    assert (response.status_code, response.content) == (204, b"")
    expect_problem(await client.get(user_url(user)), 404, "user_not_found")
    for headers in ({}, {"Cache-Control": "no-cache"}):
        shown = (await read_tombstone(client, user, **headers)).json()
        assert shown.pop("version") == 3 + deleted
        assert (shown.pop("id"), shown.pop("created_at")) == (user["id"], user["created_at"])
        assert shown.pop("status") == "deleted"
        times = [datetime.fromisoformat(time) for time in (shown.pop("updated_at"), shown.pop("deleted_at"))]
        assert times[0] >= times[1] > datetime.fromisoformat(user["created_at"])
        assert shown.pop("email_verified") is False
        assert {shown.pop("preferences") == {}, shown.pop("metadata") == {}, shown.pop("aliases") == []} == {True}
        assert set(shown.values()) == {None}
    listed = (await client.get(USERS, params={"include": "deleted"})).json()["items"]
    assert [item["email"] for item in listed] == [None]


async def test_an_erasure_is_a_change_that_names_fields_alone(client: httpx.AsyncClient, database_url: str) -> None:
    user = await make_user(client, **PERSON)

    await erase(client, user, **{"X-Request-ID": "wolpertinger"})

    (_, change) = (await client.get(user_url(user, "/audit"))).json()["items"]
    assert (change["version"], change["type"], change["status"]) == (2, "erased", "deleted")
    assert {"email", "given_name", "external_id", "status"} <= set(change["changed"])
    assert change["request_id"] is None
    assert words_in(str(change).encode()) == set()


async def test_the_address_and_the_external_id_are_free_again(client: httpx.AsyncClient) -> None:
    user = await make_user(client, **PERSON)
    await erase(client, user)

    successor = await client.put(f"{USERS}/by-external-id/{PERSON['external_id']}", json={"email": PERSON["email"]})

    assert successor.status_code == 201
    assert successor.json()["id"] != user["id"]


async def test_an_erased_user_can_not_be_restored_or_changed(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    await erase(client, user)

    expect_problem(await client.post(user_url(user, "/restore")), 409, "invalid_transition")
    expect_problem(await client.patch(user_url(user), json={"email": "new@example.org"}), 404, "user_not_found")
    for verb in ("suspend", "activate", "login"):
        expect_problem(await client.post(user_url(user, f"/{verb}")), 404, "user_not_found")
    batch = await client.post(f"{USERS}/batch/restore", json={"items": [{"id": user["id"]}]})
    assert batch.json()["items"][0]["error"]["code"] == "invalid_transition"
    expect_problem(await client.delete(user_url(user)), 404, "user_not_found")
    assert (await read_tombstone(client, user)).json()["version"] == 2
    assert (await client.delete(user_url(user, "?purge=true"))).status_code == 204


async def test_the_database_refuses_a_tombstone_that_lives(client: httpx.AsyncClient, database_url: str) -> None:
    user = await make_user(client)
    await erase(client, user)
    connection = await asyncpg.connect(database_url)
    try:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("UPDATE users SET status = 'active', deleted_at = NULL")
    finally:
        await connection.close()


async def test_a_second_erasure_changes_nothing(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    assert (await erase(client, user)).status_code == 204

    assert (await erase(client, user)).status_code == 204

    assert (await read_tombstone(client, user)).json()["version"] == 2
    assert len((await client.get(user_url(user, "/audit"))).json()["items"]) == 2


@pytest.mark.parametrize(("method", "ending"), [("POST", "/erase"), ("DELETE", "?purge=true")])
async def test_changes_that_an_erased_user_has_made_carry_an_alias(
    database_url: str, tmp_path: Path, shared_issuer: Issuer, method: str, ending: str
) -> None:
    trusting = make_settings(
        database_url,
        tmp_path,
        jwt_issuer=shared_issuer.url,
        jwt_audience=AUDIENCE,
        jwt_jwks_url=shared_issuer.jwks_url,
    )
    async with running(trusting) as client:
        user, other = await make_user(client), await make_user(client)
        async with Client(client.application) as own:
            del own.headers["X-API-Key"]
            own.headers["Authorization"] = f"Bearer {shared_issuer.token(sub=user['id'], scope='users:write')}"
            assert (await own.patch(user_url(other), json={"locale": "fr"})).status_code == 200

        assert (await client.request(method, user_url(user, ending))).status_code == 204

        changes = (await client.get(user_url(other, "/audit"))).json()["items"]
    assert changes[1]["actor"].startswith("erased:")


async def test_if_match_and_idempotency_keys_hold(client: httpx.AsyncClient) -> None:
    user = await make_user(client)

    expect_problem(await erase(client, user, **{"If-Match": '"7"'}), 412, "version_mismatch")
    first = await erase(client, user, **{"If-Match": '"1"', "Idempotency-Key": "k"})
    again = await erase(client, user, **{"If-Match": '"1"', "Idempotency-Key": "k"})
    late = await erase(client, user, **{"If-Match": '"1"'})

    assert (first.status_code, again.status_code) == (204, 204)
    assert again.headers["idempotency-replayed"] == "true"
    expect_problem(late, 412, "version_mismatch")


async def test_an_unknown_user_can_not_be_erased(client: httpx.AsyncClient) -> None:
    purged = await make_user(client)
    await client.delete(user_url(purged, "?purge=true"))

    for user_id in (uuid4(), purged["id"]):
        expect_problem(await client.post(f"{USERS}/{user_id}/erase"), 404, "user_not_found")


async def test_a_purge_redacts_stored_responses_too(client: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    user = (await client.post(USERS, json=PERSON, headers=headers)).json()
    await client.delete(user_url(user, "?purge=true"))

    expect_problem(await client.post(USERS, json=PERSON, headers=headers), 410, "answer_erased")


async def test_a_purge_removes_the_request_ids_of_the_person(client: httpx.AsyncClient) -> None:
    request_id = {"X-Request-ID": "wolpertinger"}
    user = (await client.post(USERS, json=PERSON, headers=request_id)).json()
    other = (await client.post(USERS, json={"email": "other@example.org"}, headers=request_id)).json()
    await client.delete(user_url(user, "?purge=true"), headers=request_id)

    changes = (await client.get(user_url(user, "/audit"))).json()["items"]
    assert [(change["type"], change["request_id"]) for change in changes] == [("created", None), ("purged", None)]
    kept = (await client.get(user_url(other, "/audit"))).json()["items"]
    assert [change["request_id"] for change in kept] == ["wolpertinger"]


async def test_a_stored_response_under_an_unknown_encryption_key_stops_the_erasure(
    client: httpx.AsyncClient, database_url: str
) -> None:
    user = await make_user(client, **PERSON)
    await client.post(user_url(user, "/suspend"), headers={"Idempotency-Key": "suspend"})
    connection = await asyncpg.connect(database_url)
    (key,) = await connection.fetchrow("SELECT id FROM idempotency_keys")
    token = IDEMPOTENCY_KEYS.seal(Cipher({"other": bytes(range(32))}), (key,), b"[200, []]", b"{}")
    await connection.execute("UPDATE idempotency_keys SET response = $1", token)
    await connection.close()

    expect_problem(await erase(client, user), 503, "key_not_loaded")
    assert (await client.get(user_url(user), headers={"Cache-Control": "no-cache"})).json()["email"] == user["email"]


async def test_two_users_of_one_batch_erased_at_once_are_both_redacted_in_its_response(
    client: httpx.AsyncClient,
) -> None:
    items = [{"ref": f"ref-{number}", "data": {"email": f"u{number}@example.org"}} for number in range(8)]
    headers = {"Idempotency-Key": "k"}
    made = (await client.post(f"{USERS}/batch/create", json={"items": items}, headers=headers)).json()["items"]

    responses = await asyncio.gather(*(erase(client, item) for item in made[:7]))

    assert {response.status_code for response in responses} == {204}
    again = await client.post(f"{USERS}/batch/create", json={"items": items}, headers=headers)
    assert [item["ref"] for item in again.json()["items"]] == [None] * 7 + ["ref-7"]


async def test_an_erasure_among_changes_and_reads_leaves_a_tombstone_alone(
    client: httpx.AsyncClient, database_url: str
) -> None:
    user = await make_user(client, **PERSON)
    over = asyncio.Event()
    late: list[httpx.Response] = []

    async def change(number: int) -> None:
        headers = {"Idempotency-Key": f"k-{number}"}
        response = await client.patch(user_url(user), json={"display_name": f"Elwetritsch {number}"}, headers=headers)
        # On a busy machine a change may wait for the row for longer than it may.
        assert response.status_code in {200, 404, 503}, response.text

    async def read() -> None:
        while not over.is_set():
            begun_after = bool(late)
            response = await client.get(user_url(user), params={"include": "deleted"})
            assert response.status_code == 200
            if begun_after:
                assert words_in(response.content) == set()
            # A read that the cache answers would never let others go on.
            await asyncio.sleep(0.002)

    readers = [asyncio.create_task(read()) for _ in range(2)]
    changes = [asyncio.create_task(change(number)) for number in range(12)]
    await asyncio.wait(changes[:3])
    while (response := await erase(client, user)).status_code == 503:
        continue
    late.append(response)
    await asyncio.gather(*changes)
    over.set()
    await asyncio.gather(*readers)

    assert late[0].status_code == 204
    assert words_in((await read_tombstone(client, user)).content) == set()
    assert await nothing_is_left(database_url)
    types = [item["type"] for item in (await client.get(user_url(user, "/audit?limit=200"))).json()["items"]]
    assert types[-1] == "erased"


async def nothing_is_left(database_url: str) -> bool:
    from support.leftovers import leftovers

    return await leftovers(database_url) == {}


@pytest.mark.one_server
async def test_a_find_that_was_overtaken_by_an_erasure_is_made_again(
    client: httpx.AsyncClient, database_url: str
) -> None:
    """The find has read the person; before it keeps its reply, an erasure that came first has to end."""
    user = await make_user(client, **PERSON)
    event = {
        "specversion": "1.0",
        "id": "find",
        "source": "/tests",
        "type": "org.userservice.batch.find.v1",
        "data": {"ids": [user["id"]]},
    }
    headers = {"Content-Type": "application/cloudevents+json"}
    connection = await asyncpg.connect(database_url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", UUID(user["id"]))
        erasing = asyncio.create_task(erase(client, user))
        await wait_for_lock_waiters(connection, 1)
        finding = asyncio.create_task(client.post("/events", json=event, headers=headers))
        await wait_for_lock_waiters(connection, 2)
        await transaction.rollback()
    finally:
        await connection.close()

    assert (await erasing).status_code == 204
    assert (await finding).json()["found"] == []
    assert await nothing_is_left(database_url)


async def wait_for_lock_waiters(connection: asyncpg.Connection, count: int) -> None:
    """Returns when so many transactions wait for a lock."""
    waiting = 0
    while waiting < count:
        await asyncio.sleep(0.01)
        waiting = await connection.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
