"""Errors below `/scim/v2`: each has SCIM's form, also those that come before the library is asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.api import expect_problem
from support.application import Client, running
from support.live_server import LiveServer
from support.scim import BASE, USERS, ScimClient, expect_scim_error, new_user
from support.settings import make_settings
from user_service.settings import Settings


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/Nothing", 404),
        ("GET", "/Users/no-id", 404),
        ("GET", "/Users/01890000-0000-7000-8000-000000000000", 404),
        ("GET", "/Users/01890000-0000-7000-8000-000000000000/more", 404),
        ("DELETE", "/Users", 405),
        ("OPTIONS", "/Users", 405),
        ("GET", "/Me", 501),
        ("GET", "/Users?filter=nonsense", 400),
        ("GET", "/Users?startIndex=x", 400),
        ("GET", "/Users?cursor=nonsense", 400),
        ("GET", "/%FF", 400),
    ],
)
def test_an_address_or_a_query_that_is_wrong(scim: ScimClient, method: str, path: str, status: int) -> None:
    response = scim.request(method, BASE + path)

    assert response.status_code == status, response.text
    expect_scim_error(response, status, response.json().get("scimType"))
    assert ("allow" in response.headers) == (status == 405)
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "scim_type"),
    [
        (b"{", "application/scim+json", 400, "invalidSyntax"),
        (b"[]", "application/scim+json", 400, "invalidSyntax"),
        (b"\xff", "application/json", 400, "invalidSyntax"),
        (b"", "application/json", 400, "invalidSyntax"),
        (b'{"userName": "\\ud800"}', "application/json", 400, "invalidSyntax"),
        (b"{}", "text/plain", 415, None),
        (b'{"userName": 7}', "application/json", 400, "invalidValue"),
        (b'{"displayName": "Ada"}', "application/json", 400, "invalidValue"),
        (b"[" * 100_000, "application/json", 400, "invalidSyntax"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "application/json", 400, "invalidSyntax"),
        (b'{"userName": NaN}', "application/json", 400, "invalidSyntax"),
        (b" " * (256 * 1024 + 1), "application/json", 413, None),
        (b" " * (2 * 1024 * 1024 + 1), "application/json", 413, None),
    ],
    ids=range(13),
)
def test_a_body_that_is_wrong(
    scim: ScimClient, content: bytes, content_type: str, status: int, scim_type: str | None
) -> None:
    response = scim.post(USERS, content=content, headers={"Content-Type": content_type})

    expect_scim_error(response, status, scim_type)


def test_both_content_types_are_taken_and_none_means_json(scim: ScimClient) -> None:
    for content_type in ("application/scim+json", "application/json", "application/scim+json; charset=utf-8"):
        body = json.dumps(new_user()).encode()
        assert scim.post(USERS, content=body, headers={"Content-Type": content_type}).status_code == 201


def test_a_compressed_body_is_refused(scim: ScimClient) -> None:
    response = scim.post(USERS, json=new_user(), headers={"Content-Encoding": "gzip"})

    expect_scim_error(response, 415)


def test_errors_do_not_quote_values(scim: ScimClient) -> None:
    secret = "ada.secret@example.org"
    created = scim.make()
    responses = [
        scim.get(USERS, params={"filter": f'title eq "{secret}"'}),
        scim.get(USERS, params={"filter": f'meta.created gt "{secret}"'}),
        scim.get(USERS, params={"filter": f'active eq "{secret}"'}),
        scim.patch_user(created, {"op": "replace", "path": f'emails[value eq "{secret}"', "value": "x"}),
        scim.patch_user(created, {"op": "replace", "path": "active", "value": secret}),
        scim.patch_user(created, {"op": "replace", "path": "schemas", "value": [secret]}),
        scim.patch_user(created, {"op": "replace", "path": "emails", "value": [secret]}),
        scim.post(USERS, json=new_user(active=secret)),
        scim.post(USERS, json=new_user(emails=secret)),
        scim.post(USERS, json=new_user(emails=[{"value": f"{secret}@"}])),
    ]

    for response in responses:
        assert secret not in expect_scim_error(response, 400, response.json().get("scimType"))


def test_the_scope_reaches_users_of_scim_and_nothing_else(
    scim_server: LiveServer, shared_issuer: Any, scim: ScimClient
) -> None:
    created = scim.make()
    with ScimClient(scim_server.port, shared_issuer.token(scope="scim")) as client:
        assert client.read(created) == created
        assert client.make()["active"] is True
        document = client.get("/openapi.json").json()
        checked = 0
        for path, operations in document["paths"].items():
            # What a caller is told of itself.
            if not path.startswith("/api/v1/") or path.startswith(("/api/v1/users/me", "/api/v1/whoami")):
                continue
            for method in operations:
                address = path.replace("{user_id}", created["id"])
                response = client.request(method, address, json={}, headers={"Content-Type": "application/json"})
                assert response.status_code == 403, (method, path, response.text)
                checked += 1
        assert checked > 20
        assert client.post("/events", json={}).status_code == 403
        assert client.get("/api/v1/users/me").status_code == 404
        assert client.read(created) == created


def test_other_scopes_do_not_reach_scim(scim_server: LiveServer, shared_issuer: Any) -> None:
    token = shared_issuer.token(scope="users:read users:write users:delete users:purge users:erase cache:manage")
    with ScimClient(scim_server.port, token) as client:
        assert "scim" in expect_scim_error(client.get(USERS), 403)
        assert "scim" in expect_scim_error(client.post(USERS, json=new_user()), 403)
        expect_scim_error(client.get(f"{BASE}/ServiceProviderConfig"), 403)


def test_a_request_without_a_credential_is_unauthenticated(scim_server: LiveServer) -> None:
    with ScimClient(scim_server.port, "an-unknown-key") as client:
        for path in ("", "/", "/Users", "/ServiceProviderConfig", "/Nothing", "/Groups"):
            response = client.get(BASE + path)
            expect_scim_error(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"


async def test_too_many_requests_are_refused_in_scim_s_form(settings: Settings, tmp_path: Path) -> None:
    limited = make_settings(settings.database_url, tmp_path, scim=True, rate_limit_internal_max=2)
    async with running(limited) as client:
        responses = [await client.get(f"{BASE}/ServiceProviderConfig") for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 429]
    expect_scim_error(responses[-1], 429)
    assert int(responses[-1].headers["retry-after"]) > 0


async def test_a_replica_that_is_full_refuses_in_scim_s_form(settings: Settings, tmp_path: Path) -> None:
    async with running(make_settings(settings.database_url, tmp_path, scim=True)) as client:
        client.application.max_in_flight = 0
        response = await client.get(USERS)

    expect_scim_error(response, 503)
    assert response.headers["retry-after"]


async def test_a_host_that_is_none_is_refused(settings: Settings, tmp_path: Path) -> None:
    async with running(make_settings(settings.database_url, tmp_path, scim=True)) as client:
        for host in ('x"/y', "users.example.org:1234567", "user@example.org"):
            expect_scim_error(await client.get(USERS, headers={"Host": host}), 400)


async def test_the_setting_names_the_base_url(settings: Settings, tmp_path: Path) -> None:
    base_url = "https://users.example.org/prefix/scim/v2"
    async with running(make_settings(settings.database_url, tmp_path, scim=True, scim_base_url=base_url)) as client:
        created = await client.post(USERS, json=new_user())

        status = (await client.get("/api/v1/status")).json()

    assert created.headers["location"] == f"{base_url}/Users/{created.json()['id']}"
    assert status["scim"] == base_url


async def test_without_the_setting_there_is_no_scim(client: Client) -> None:
    expect_problem(await client.get(USERS), 404, "not_found")
    expect_problem(await client.get(USERS, headers={"X-API-Key": "an-unknown-key"}), 404, "not_found")
    assert (await client.get("/api/v1/status")).json()["scim"] is None


async def test_a_process_of_events_has_no_scim(settings: Settings, tmp_path: Path) -> None:
    async with running(make_settings(settings.database_url, tmp_path, scim=True, serve="events")) as client:
        expect_problem(await client.get(USERS), 404, "not_found")
