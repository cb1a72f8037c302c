"""What Okta sends: the twelve requests by which it tests a new integration, and those of a person's life in an app."""

import time
from typing import Any

import pytest

from support.live_server import LiveServer
from support.scim import BASE, CORE, PATCH, USERS, ScimClient, expect_scim_error, unique_name

pytestmark = pytest.mark.distributed


def okta_user(name: str, **attributes: Any) -> dict[str, Any]:
    """The body of a user as Okta pushes it."""
    return {
        "schemas": [CORE],
        "userName": name,
        "name": {"givenName": "Test", "familyName": "User"},
        "emails": [{"primary": True, "value": name, "type": "work"}],
        "displayName": "Test User",
        "locale": "en-US",
        "externalId": f"00u{name[5:22]}",
        "groups": [],
        "password": "1mz050nq",
        "active": True,
        **attributes,
    }


def expect_list(response: Any, total: int | None = None) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:ListResponse"]
    assert {type(body[name]) for name in ("totalResults", "startIndex", "itemsPerPage")} == {int}
    assert total is None or body["totalResults"] == total
    found: list[dict[str, Any]] = body["Resources"]
    return found


def test_the_twelve_requests_of_the_test_of_an_integration(scim: ScimClient, scim_server: LiveServer) -> None:
    scim.post(USERS, json=okta_user(unique_name())).raise_for_status()
    name = unique_name()
    search = f'userName eq "{name}"'

    (first,) = expect_list(scim.get(USERS, params={"count": 1, "startIndex": 1}))
    assert first["id"]
    assert {"familyName", "givenName"} <= first["name"].keys()
    assert first["userName"]
    assert first["active"] is True
    assert first["emails"][0]["value"]
    assert scim.get(f"{USERS}/{first['id']}").json() == first
    assert expect_list(scim.get(USERS, params={"filter": f'userName eq "{unique_name()}"'}), 0) == []
    expect_scim_error(scim.get(f"{USERS}/010101001010101011001010101011"), 404)
    assert expect_list(scim.get(USERS, params={"filter": search}), 0) == []
    created = scim.post(USERS, json=okta_user(name))
    assert created.status_code == 201
    assert (created.json()["active"], created.json()["userName"]) == (True, name)
    assert created.json()["name"] == {"givenName": "Test", "familyName": "User"}
    assert scim.get(f"{USERS}/{created.json()['id']}").json() == created.json()
    expect_scim_error(scim.post(USERS, json=okta_user(name)), 409, "uniqueness")
    assert expect_list(scim.get(USERS, params={"filter": search.replace(name, name.upper())}), 1) == [created.json()]
    assert expect_list(scim.get(f"{BASE}/Groups"), 0) == []
    with ScimClient(scim_server.port, "an-invalid-token") as other:
        expect_scim_error(other.get(USERS, params={"count": 1}), 401)
    expect_scim_error(scim.get(f"{USERS}/00919288221112222"), 404)


def test_a_person_s_life_in_an_app(scim: ScimClient) -> None:
    name = unique_name()
    body = okta_user(name)
    assert expect_list(scim.get(USERS, params={"filter": f'userName eq "{name}"', "startIndex": 1, "count": 100})) == []
    created = scim.post(USERS, json=body).json()
    address = f"{USERS}/{created['id']}"

    # A change of the profile: Okta reads the user and puts it back whole.
    read = scim.get(address).json()
    changed = {**read, "name": {**read["name"], "familyName": "Jensen"}, "displayName": "Test Jensen"}
    assert scim.put(address, json=changed).json()["name"]["familyName"] == "Jensen"
    # An app that is taken away, and given back.
    for active in (False, True):
        patch = {"schemas": [PATCH], "Operations": [{"op": "replace", "value": {"active": active}}]}
        answer = scim.patch(address, json=patch)
        assert (answer.status_code, answer.json()["active"]) == (200, active)
    # With "Sync password", and from an app whose users are put.
    password = {"schemas": [PATCH], "Operations": [{"op": "replace", "value": {"password": "U29tZVBhc3N3b3Jk"}}]}
    assert scim.patch(address, json=password).status_code == 200
    assert scim.put(address, json={**scim.get(address).json(), "active": False}).json()["active"] is False


def test_an_import_meets_every_user_page_by_page(scim: ScimClient) -> None:
    made = {scim.make()["id"] for _ in range(7)}

    seen: list[str] = []
    start, total = 1, 1
    while start <= total:
        page = scim.search(startIndex=start, count=3)
        seen += [user["id"] for user in page["Resources"]]
        start, total = start + page["itemsPerPage"], page["totalResults"]

    assert len(seen) == len(set(seen)) == total
    assert made <= set(seen)


@pytest.mark.parametrize("operator", ["ge", "gt"])
def test_an_incremental_import_asks_for_the_last_changes(scim: ScimClient, operator: str) -> None:
    scim.make()
    time.sleep(0.01)
    changed = scim.make()

    moment = changed["meta"]["lastModified"]
    found = scim.names(f'meta.lastModified {operator} "{moment}"')

    assert found == ([changed["userName"]] if operator == "ge" else [])
