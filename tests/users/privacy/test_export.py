"""`GET /users/{id}/export`: all that is stored of one person"""

from uuid import uuid4

import asyncpg
import httpx
import orjson

from support.api import USERS, expect_problem, make_user, user_url


async def test_an_export_has_the_user_the_trail_and_what_else_is_stored(client: httpx.AsyncClient) -> None:
    body = {"email": "w@example.org", "given_name": "Wilhelmina", "metadata": {"plan": "pro"}}
    user = (await client.post(USERS, json=body, headers={"Idempotency-Key": "k"})).json()
    find = {"ids": [user["id"]]}
    event = {"specversion": "1.0", "id": "e-1", "source": "/tests", "type": "org.userservice.batch.find.v1"}
    headers = {"Content-Type": "application/cloudevents+json"}
    await client.post("/events", content=orjson.dumps(event | {"data": find}), headers=headers)
    await client.post("/events", content=orjson.dumps(event | {"id": "e-2", "data": {"ids": []}}), headers=headers)
    await make_user(client)

    response = await client.get(user_url(user, "/export"))

    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-disposition"] == f'attachment; filename="user-{user["id"]}.json"'
    assert response.headers["cache-control"] == "no-store"
    export = response.json()
    assert set(export) == {"exported_at", "user", "stored", "changes"}
    assert export["user"] == user
    assert export["changes"] == (await client.get(user_url(user, "/audit"))).json()["items"]
    stored = export["stored"]
    assert stored["blind_indexes"] == {"email": True, "identifiers": 1, "search_terms": 3}
    assert len(stored["idempotency_answers"]) == 1
    assert [(reply["source"], reply["id"]) for reply in stored["event_replies"]] == [("/tests", "e-1")]
    assert stored["as_actor"] == {"names": [], "changes": 0, "imports": []}


async def test_deleted_and_purged_users_are_exported(client: httpx.AsyncClient) -> None:
    user = await make_user(client, given_name="Wilhelmina")
    await client.delete(user_url(user))
    deleted = (await client.get(user_url(user, "/export"))).json()
    await client.delete(user_url(user, "?purge=true"))
    purged = (await client.get(user_url(user, "/export"))).json()

    assert (deleted["user"]["status"], deleted["user"]["given_name"]) == ("deleted", "Wilhelmina")
    assert deleted["stored"]["prior_status"] == "active"
    assert purged["user"] is None
    assert [change["type"] for change in purged["changes"]] == ["created", "deleted", "purged"]


async def test_a_long_trail_is_exported_whole(client: httpx.AsyncClient, database_url: str) -> None:
    user = await make_user(client)
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO user_changes SELECT user_id, n, 'updated', status, changed, actor, request_id, traceparent,"
        " changed_at, gen_random_uuid() FROM user_changes, generate_series(2, 2100) n"
    )
    await connection.close()

    export = (await client.get(user_url(user, "/export"))).json()

    assert [change["version"] for change in export["changes"]] == list(range(1, 2101))


async def test_an_unknown_user_is_not_exported(client: httpx.AsyncClient) -> None:
    expect_problem(await client.get(f"{USERS}/{uuid4()}/export"), 404, "user_not_found")
