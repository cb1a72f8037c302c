"""Requests of every kind, for tests of what the service shows about itself."""

from typing import Any
from uuid import uuid4

import httpx

from support.api import USERS, create_user, user_url


def send_batch_event(client: httpx.Client, **attributes: str) -> httpx.Response:
    """The response to an event that creates one user."""
    event = {
        "specversion": "1.0",
        "id": uuid4().hex,
        "source": "/tests",
        "type": "org.userservice.batch.create.v1",
        "datacontenttype": "application/json",
        "data": {"items": [{"data": {"email": f"{uuid4().hex}@example.org"}}]},
        **attributes,
    }
    return client.post("/events", json=event, headers={"Content-Type": "application/cloudevents+json"})


def put_load(client: httpx.Client, *, rounds: int = 20) -> None:
    """Reads that hit and miss, a list, writes, and responses with 401, 404, 409 and 422."""
    path = user_url(create_user(client, given_name="Grace", family_name="Hopper"))
    for _ in range(rounds):
        assert client.get(path).status_code == 200
        assert client.get(f"{USERS}/{uuid4()}").status_code == 404
    assert client.get(USERS, params={"q": "grace hopper"}).status_code == 200
    batch: dict[str, Any] = {"items": [{"data": {"email": f"{uuid4().hex}@example.org"}}, {"data": {"email": "none"}}]}
    for _ in range(3):
        assert client.post(f"{USERS}/batch/create", json=batch).status_code == 207
    assert send_batch_event(client).status_code == 200
    assert client.patch(path, json={"given_name": "Amazing"}).status_code == 200
    assert client.post(USERS, json={"email": "not an address"}).status_code == 422
    assert client.get(USERS, headers={"X-API-Key": "wrong"}).status_code == 401
