"""After an erasure nothing of the person is left, whatever door they came in by"""

import hashlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from support.api import USERS
from support.leftovers import PERSON, WORDS, in_redis, leftovers, words_in
from support.process import serving
from support.servers import PostgresServer

NDJSON = {"Content-Type": "application/x-ndjson"}
EVENT = {"Content-Type": "application/cloudevents+json"}
NEIGHBOUR = {"email": "neighbour@example.org", "display_name": "Somebody else"}
Door = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


def event(name: str, verb: str, data: dict[str, Any]) -> dict[str, Any]:
    kind = f"org.userservice.batch.{verb}.v1"
    return {"specversion": "1.0", "id": name, "source": "/tests", "type": kind, "data": data}


async def send(client: httpx.AsyncClient, sent: dict[str, Any]) -> httpx.Response:
    return await client.post("/events", content=orjson.dumps(sent), headers=EVENT)


async def post_batch(client: httpx.AsyncClient, verb: str, items: list[Any], key: str, **body: Any) -> httpx.Response:
    batch = {"items": items, **body}
    return await client.post(f"{USERS}/batch/{verb}", json=batch, headers={"Idempotency-Key": key})


async def by_request(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(USERS, json=PERSON, headers={"Idempotency-Key": "create"})


async def by_batch(client: httpx.AsyncClient) -> httpx.Response:
    items = [{"ref": PERSON["email"], "data": PERSON}, {"ref": "row-2", "data": NEIGHBOUR}]
    return await post_batch(client, "create", items, "create-batch")


async def by_event(client: httpx.AsyncClient) -> httpx.Response:
    data = {"items": [{"ref": PERSON["family_name"], "data": PERSON}, {"ref": "row-2", "data": NEIGHBOUR}]}
    return await send(client, event("create-event", "create", data))


async def by_import(client: httpx.AsyncClient) -> httpx.Response:
    lines = [PERSON, {**PERSON, "phone": "tatzelwurm"}, {"email": PERSON["email"], PERSON["given_name"]: 1}]
    content = b"\n".join(map(orjson.dumps, lines)) + b'\n{"display_name": "Elwetritsch'
    return await client.post(f"{USERS}/imports", content=content, headers={**NDJSON, "Idempotency-Key": "import"})


DOORS: dict[str, Door] = {"request": by_request, "batch": by_batch, "event": by_event, "import": by_import}


async def look_for_unknown_users(client: httpx.AsyncClient) -> None:
    """Finds by the keys of a user that does not exist yet: the replies report them as missing."""
    keys = {"emails": [PERSON["email"]], "external_ids": [PERSON["external_id"]]}
    assert (await send(client, event("find-early", "find", keys))).json()["missing"]["emails"] == keys["emails"]


async def live(client: httpx.AsyncClient, user_id: str) -> None:
    """Everything that leaves answers behind: changes, refusals, no change at all, finds, dry runs."""
    url = f"{USERS}/{user_id}"
    for number, patch in enumerate([{"display_name": "Elwetritsch II"}, {"display_name": "Elwetritsch II"}]):
        response = await client.patch(url, json=patch, headers={"Idempotency-Key": f"patch-{number}"})
        assert response.status_code == 200
    for verb in ("suspend", "activate"):
        assert (await client.post(f"{url}/{verb}", headers={"Idempotency-Key": verb})).status_code == 200
    assert (await client.delete(url)).status_code == 204
    assert (await client.post(f"{url}/restore", headers={"Idempotency-Key": "restore"})).status_code == 200
    upsert = {"email": PERSON["email"], "display_name": "Elwetritsch"}
    address = f"{USERS}/by-external-id/{PERSON['external_id']}"
    assert (await client.put(address, json=upsert, headers={"Idempotency-Key": "put"})).status_code == 200
    again = {"ref": PERSON["display_name"], "data": {"email": PERSON["email"]}}
    wrong = {"ref": PERSON["given_name"], "data": {"email": PERSON["email"], "phone": "tatzelwurm"}}
    change = {"ref": PERSON["family_name"], "id": user_id, "data": {"locale": "gsw-CH"}}
    for name, verb, items, body in (
        ("taken", "create", [again, wrong], {}),
        ("skipped", "create", [again], {"on_conflict": "skip"}),
        ("refused", "create", [again], {"mode": "atomic"}),
        ("unchanged", "update", [change], {}),
        ("stale", "update", [{**change, "if_version": 1}], {}),
        ("dry", "create", [{**again, "data": PERSON}], {"dry_run": True, "on_conflict": "update"}),
    ):
        assert (await post_batch(client, verb, items, name, **body)).status_code in {200, 207, 409}, name
        assert (await send(client, event(name, verb, {"items": items, **body}))).status_code == 200, name
    assert len((await send(client, event("find", "find", {"ids": [user_id]}))).json()["found"]) == 1
    lines = orjson.dumps(PERSON) + b"\n" + orjson.dumps({PERSON["given_name"]: 1, **PERSON})
    assert (await client.post(f"{USERS}/imports", content=lines, headers=NDJSON)).json()["failed"] == 2
    for headers in ({"Cache-Control": "no-cache"}, {}):
        assert (await client.get(url, headers=headers)).status_code == 200
    assert (await client.get(USERS, params={"q": PERSON["given_name"]})).json()["items"]


@pytest.fixture
async def client(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "APP_ENV": "production", "LOG_LEVEL": "debug"}
    with serving(tmp_path, **environ) as service:
        async with service.async_client() as client:
            yield client


def read_log(folder: Path) -> bytes:
    (log,) = folder.glob("service-*.log")
    return log.read_bytes()


def dumped(postgres: PostgresServer, database_url: str) -> bytes:
    command = [postgres.cluster.programs / "pg_dump", "--inserts", database_url]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize("door", DOORS)
async def test_nothing_of_an_erased_person_is_left_anywhere(
    client: httpx.AsyncClient, door: str, database_url: str, redis_url: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    await look_for_unknown_users(client)
    assert (await DOORS[door](client)).is_success
    (user,) = (await client.get(USERS, params={"external_id": PERSON["external_id"]})).json()["items"]
    await live(client, user["id"])
    before = await leftovers(database_url)
    assert {"users", "user_terms", "idempotency_keys", "inbox"} <= before.keys()
    assert set().union(*before.values()) >= set(WORDS)
    assert await in_redis(redis_url)

    erased = await client.post(f"{USERS}/{user['id']}/erase")

    assert erased.status_code == 204
    assert await leftovers(database_url) == {}
    assert words_in(dumped(postgres, database_url)) == set()
    assert await in_redis(redis_url) == set()
    assert words_in((await client.get("/metrics")).content) == set()
    tombstone = await client.get(f"{USERS}/{user['id']}", params={"include": "deleted"})
    assert (tombstone.status_code, words_in(tombstone.content)) == (200, set())
    for path in ("audit", "export"):
        assert words_in((await client.get(f"{USERS}/{user['id']}/{path}")).content) == set()
    # What a sink has not been told yet goes out later, and the log is written as it happens.
    assert words_in(read_log(tmp_path)) == set()


@pytest.mark.parametrize("door", ["request", "batch", "event"])
async def test_a_request_repeated_after_an_erasure_gets_a_redacted_response_and_is_not_applied(
    client: httpx.AsyncClient, door: str, database_url: str
) -> None:
    first = await DOORS[door](client)
    (user,) = (await client.get(USERS, params={"external_id": PERSON["external_id"]})).json()["items"]
    await client.post(f"{USERS}/{user['id']}/erase")

    again = await DOORS[door](client)

    assert words_in(again.content) == set()
    assert (await client.get(USERS, params={"external_id": PERSON["external_id"]})).json()["items"] == []
    if door == "request":
        assert (again.status_code, again.json()["code"]) == (410, "answer_erased")
        return
    assert again.status_code == first.status_code == 200
    theirs, neighbours = first.json()["items"]
    assert again.json()["items"] == [{**theirs, "ref": None}, neighbours]
    assert again.json()["summary"] == first.json()["summary"]


async def test_another_request_under_the_key_or_id_of_an_erased_one_is_still_refused(client: httpx.AsyncClient) -> None:
    await by_event(client)
    (user,) = (await client.get(USERS, params={"external_id": PERSON["external_id"]})).json()["items"]
    await send_patch(client, "patch", user["id"], "Elwetritsch II")
    await client.post(f"{USERS}/{user['id']}/erase")

    other_event = await send(client, event("create-event", "create", {"items": [{"data": NEIGHBOUR}]}))
    other_patch = await send_patch(client, "patch", user["id"], "Elwetritsch III")

    assert other_event.json()["code"] == "event_id_reused"
    assert other_patch.json()["code"] == "idempotency_key_reused"


async def send_patch(client: httpx.AsyncClient, key: str, user_id: str, name: str) -> httpx.Response:
    patch = {"display_name": name}
    return await client.patch(f"{USERS}/{user_id}", json=patch, headers={"Idempotency-Key": key})


async def test_the_digest_of_an_erased_events_data_can_not_be_guessed(
    client: httpx.AsyncClient, database_url: str
) -> None:
    sent = event("guess", "create", {"items": [{"data": PERSON}]})
    await send(client, sent)
    content = orjson.dumps(sent["data"], option=orjson.OPT_SORT_KEYS)
    guess = hashlib.sha256(sent["type"].encode() + b"\0" + content).digest()
    (user,) = (await client.get(USERS, params={"external_id": PERSON["external_id"]})).json()["items"]
    assert guess in await digests(database_url)

    await client.post(f"{USERS}/{user['id']}/erase")

    assert guess not in await digests(database_url)
    assert (await send(client, sent)).status_code == 200


async def digests(database_url: str) -> list[bytes]:
    import asyncpg

    connection = await asyncpg.connect(database_url)
    try:
        return [row["digest"] for row in await connection.fetch("SELECT digest FROM inbox")]
    finally:
        await connection.close()
