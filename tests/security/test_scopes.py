"""Scopes: what a token may do, and what it may not."""

import httpx
import pytest

from support.api import USERS, create_user, expect_problem, user_url
from support.issuer import Issuer
from support.live_server import LiveServer
from user_service.values.api_keys import SCOPES

CACHE = "/api/v1/cache"
# By scope: the requests that need it, with the id of a user in place of `{id}`.
NEEDED = {
    "users:read": [("GET", USERS), ("GET", f"{USERS}/{{id}}"), ("HEAD", f"{USERS}/{{id}}")],
    "users:write": [
        ("POST", USERS),
        ("PATCH", f"{USERS}/{{id}}"),
        ("PUT", f"{USERS}/by-external-id/x"),
        *(("POST", f"{USERS}/{{id}}/{verb}") for verb in ("restore", "suspend", "activate", "login")),
    ],
    "users:delete": [("DELETE", f"{USERS}/{{id}}")],
    "users:purge": [("DELETE", f"{USERS}/{{id}}?purge=true")],
    "cache:manage": [("GET", CACHE), ("DELETE", CACHE), ("POST", f"{CACHE}/warm")],
}


def client_with(server: LiveServer, issuer: Issuer, scopes: frozenset[str]) -> httpx.Client:
    return server.client(Authorization=f"Bearer {issuer.token(scope=' '.join(scopes))}")


def test_a_principal_without_a_scope_is_forbidden(server: LiveServer, shared_issuer: Issuer) -> None:
    with server.client() as client:
        user = create_user(client)

    for scope, requests in NEEDED.items():
        with client_with(server, shared_issuer, SCOPES - {scope}) as client:
            for method, path in requests:
                body = {"email": "ada@example.org"} if method in {"PUT", "PATCH"} or path == USERS else None
                response = client.request(method, path.format(id=user["id"]), json=body)
                if method != "HEAD":
                    assert scope in expect_problem(response, 403, "forbidden")["detail"]
                assert response.status_code == 403
    with server.client() as client:
        assert client.get(user_url(user), headers={"Cache-Control": "no-cache"}).json() == user


@pytest.mark.parametrize(
    ("verb", "scope"),
    [
        ("create", "users:write"),
        ("update", "users:write"),
        ("delete", "users:delete"),
        ("restore", "users:write"),
        ("find", "users:read"),
    ],
)
def test_each_batch_needs_its_scope(server: LiveServer, shared_issuer: Issuer, verb: str, scope: str) -> None:
    body: dict[str, list[str]] = {} if verb == "find" else {"items": []}
    scopes = frozenset({"users:read", "users:write", "users:delete"})

    statuses = []
    for allowed in (frozenset({scope}), scopes - {scope}):
        with client_with(server, shared_issuer, allowed) as client:
            statuses.append(client.post(f"{USERS}/batch/{verb}", json=body).status_code)

    assert statuses == [200, 403]
