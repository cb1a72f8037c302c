"""`GET /api/v1/whoami`"""

import httpx

from support.api import USERS, create_user, expect_problem, user_url
from support.issuer import Issuer
from support.live_server import LiveServer
from user_service.values.api_keys import SCOPES

WHOAMI = "/api/v1/whoami"


def test_a_key_is_told_the_name_that_the_audit_trail_has_and_every_scope(server: LiveServer) -> None:
    with server.client() as client:
        caller = client.get(WHOAMI).json()
        audit = client.get(user_url(create_user(client), "/audit")).json()

    assert caller == {"actor": audit["items"][0]["actor"], "kind": "api_key", "scopes": sorted(SCOPES)}


def test_a_token_is_told_the_scopes_that_count_here_and_never_its_subject(
    server: LiveServer, shared_issuer: Issuer
) -> None:
    token = shared_issuer.token(sub="ada@example.org", scope="users:write users:read openid everything")
    with server.client(Authorization=f"Bearer {token}") as client:
        response = client.get(WHOAMI)
        audit = client.get(user_url(create_user(client), "/audit")).json()

    caller = response.json()
    assert caller == {
        "actor": audit["items"][0]["actor"],
        "kind": "jwt",
        "scopes": ["users:read", "users:write"],
    }
    assert "ada" not in response.text


def test_a_token_without_a_scope_may_ask(server: LiveServer, shared_issuer: Issuer) -> None:
    with server.client(Authorization=f"Bearer {shared_issuer.token()}") as client:
        assert client.get(WHOAMI).json()["scopes"] == []
        assert client.get(USERS).status_code == 403


async def test_a_wrong_key_is_refused(shared_client: httpx.AsyncClient) -> None:
    expect_problem(await shared_client.get(WHOAMI, headers={"X-API-Key": "wrong"}), 401, "unauthenticated")
