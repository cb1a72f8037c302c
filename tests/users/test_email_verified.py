"""`email_verified`: another spelling of the same address keeps it, another address clears it"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest

from support.api import USERS, make_user, unique_email, user_url

Change = Callable[[httpx.AsyncClient, dict[str, Any], str], Awaitable[httpx.Response]]


async def patch(client: httpx.AsyncClient, user: dict[str, Any], email: str) -> httpx.Response:
    return await client.patch(user_url(user), json={"email": email})


async def upsert(client: httpx.AsyncClient, user: dict[str, Any], email: str) -> httpx.Response:
    return await client.put(f"{USERS}/by-external-id/{user['external_id']}", json={"email": email})


async def update_in_batch(client: httpx.AsyncClient, user: dict[str, Any], email: str) -> httpx.Response:
    items = [{"id": user["id"], "data": {"email": email}}]
    return await client.post(f"{USERS}/batch/update", json={"items": items})


async def merge_in_batch(client: httpx.AsyncClient, user: dict[str, Any], email: str) -> httpx.Response:
    items = [{"data": {"external_id": user["external_id"], "email": email}}]
    return await client.post(f"{USERS}/batch/create", json={"on_conflict": "update", "items": items})


async def import_ndjson(client: httpx.AsyncClient, user: dict[str, Any], email: str) -> httpx.Response:
    content: bytes = orjson.dumps({"external_id": user["external_id"], "email": email})
    headers = {"Content-Type": "application/x-ndjson"}
    return await client.post(f"{USERS}/imports?on_conflict=update", content=content, headers=headers)


async def import_csv(client: httpx.AsyncClient, user: dict[str, Any], email: str) -> httpx.Response:
    content = f"external_id,email\n{user['external_id']},{email}\n"
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    return await client.post(f"{USERS}/imports?on_conflict=update", content=content.encode(), headers=headers)


async def send_event(client: httpx.AsyncClient, user: dict[str, Any], email: str) -> httpx.Response:
    event = {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/tests",
        "type": "org.userservice.batch.update.v1",
        "data": {"items": [{"id": user["id"], "data": {"email": email}}]},
    }
    headers = {"Content-Type": "application/cloudevents+json"}
    return await client.post("/events", content=orjson.dumps(event), headers=headers)


CHANGES = [patch, upsert, update_in_batch, merge_in_batch, import_ndjson, import_csv, send_event]
SPELLINGS = {
    "zoë.{}@bücher.example": ["ZOË.{}@bücher.example", "zoe\u0308.{}@BÜCHER.example", "Zoë.{}@xn--bcher-kva.example"],
    "straße.{}@example.org": ["STRASSE.{}@example.org", " Straße.{}@Example.org "],
}


async def verified_user(client: httpx.AsyncClient, email: str) -> dict[str, Any]:
    return await make_user(client, email=email, external_id=uuid4().hex, email_verified=True)


async def read(client: httpx.AsyncClient, user: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = (await client.get(user_url(user))).json()
    return seen


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_another_spelling_keeps_the_address_verified(shared_client: httpx.AsyncClient, change: Change) -> None:
    for email, spellings in SPELLINGS.items():
        unique = uuid4().hex[:12]
        user = await verified_user(shared_client, email.format(unique))
        for spelling in spellings:
            response = await change(shared_client, user, spelling.format(unique))

            assert response.is_success, response.text
            seen = await read(shared_client, user)
            assert seen["email_verified"]
        # It is stored as it was sent last, so the request has had its effect.
        assert seen["version"] > user["version"]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_another_address_is_not_verified(shared_client: httpx.AsyncClient, change: Change) -> None:
    user = await verified_user(shared_client, unique_email())

    assert (await change(shared_client, user, unique_email())).is_success

    assert not (await read(shared_client, user))["email_verified"]
