"""An erased person is no longer known as an actor; audit, export and erasure each need a scope."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user
from support.issuer import Issuer
from support.live_server import LiveServer


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def list_actors(client: httpx.Client, user: dict[str, Any]) -> list[str]:
    return [change["actor"] for change in client.get(f"{USERS}/{user['id']}/audit").json()["items"]]


@pytest.mark.parametrize("known_by", ["external_id", "id"])
@pytest.mark.parametrize(("method", "ending"), [("POST", "/erase"), ("DELETE", "?purge=true")])
def test_the_changes_of_an_erased_or_purged_actor_carry_one_alias(
    server: LiveServer, shared_issuer: Issuer, client: httpx.Client, known_by: str, method: str, ending: str
) -> None:
    person, other = create_user(client, external_id=f"ext-{uuid4().hex}"), create_user(client)
    scopes = "users:write users:erase users:purge"
    with server.client(Authorization=f"Bearer {shared_issuer.token(sub=person[known_by], scope=scopes)}") as own:
        assert own.patch(f"{USERS}/me", json={"given_name": "Kunigunde"}).status_code == 200
        assert own.patch(f"{USERS}/{other['id']}", json={"locale": "fr"}).status_code == 200
        imported = own.post(f"{USERS}/imports", content=b"", headers={"Content-Type": "application/x-ndjson"}).json()
        name = list_actors(client, other)[1]
        export = client.get(f"{USERS}/{person['id']}/export").json()["stored"]["as_actor"]
        assert own.request(method, f"{USERS}/{person['id']}{ending}").status_code == 204

    assert name in export["names"]
    assert (export["changes"], [one["id"] for one in export["imports"]]) == (2, [imported["id"]])
    key, alias, same = list_actors(client, person)
    assert key.startswith("api-key:")
    assert alias == same == list_actors(client, other)[1]
    assert alias.startswith("erased:")
    assert alias.partition(":")[2] != name.partition(":")[2]


@pytest.mark.parametrize(
    ("method", "ending", "scope"),
    [("GET", "audit", "users:read"), ("GET", "export", "users:read"), ("POST", "erase", "users:erase")],
)
def test_each_asks_for_its_scope(
    server: LiveServer, shared_issuer: Issuer, client: httpx.Client, method: str, ending: str, scope: str
) -> None:
    path = f"{USERS}/{create_user(client)['id']}/{ending}"
    others = {"users:read", "users:write", "users:delete", "users:purge", "users:erase"} - {scope}

    statuses = []
    for scopes in (" ".join(others), scope):
        with server.client(Authorization=f"Bearer {shared_issuer.token(scope=scopes)}") as caller:
            statuses.append(caller.request(method, path).status_code)
    with server.client(Accept="*/*") as anonymous:
        statuses.append(anonymous.request(method, path).status_code)

    assert statuses == [403, 204 if method == "POST" else 200, 401]
