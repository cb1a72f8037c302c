"""`attributes` and `excludedAttributes`: what a response of `/scim/v2` has of a user."""

import httpx
import pytest

from support.scim import PATCH, USERS, ScimClient, new_user

pytestmark = pytest.mark.distributed


def test_attributes_are_chosen_and_left_out(scim: ScimClient) -> None:
    created = scim.make(title="Countess", favouriteColour="green")
    address = f"{USERS}/{created['id']}"

    chosen = scim.get(address, params={"attributes": "userName,emails.value"}).json()
    left = scim.get(address, params={"excludedAttributes": "emails,favouriteColour"}).json()

    assert set(chosen) == {"schemas", "id", "userName", "emails"}
    assert chosen["emails"] == [{"value": created["emails"][0]["value"]}]
    assert set(created) - set(left) == {"emails", "favouriteColour"}
    listed = scim.search(f'id eq "{created["id"]}"', attributes="title")["Resources"]
    assert [set(user) for user in listed] == [{"schemas", "id", "title"}]


def test_the_answers_to_changes_have_the_chosen_attributes(scim: ScimClient) -> None:
    def expect(response: httpx.Response, status: int) -> str:
        assert (response.status_code, set(response.json())) == (status, {"schemas", "id", "userName"})
        return str(response.json()["id"])

    chosen = {"attributes": "userName"}
    user_id = expect(scim.post(USERS, params=chosen, json=new_user()), 201)
    address = f"{USERS}/{user_id}"
    expect(scim.put(address, params=chosen, json=new_user()), 200)
    patch = {"schemas": [PATCH], "Operations": [{"op": "replace", "path": "title", "value": "Countess"}]}
    expect(scim.patch(address, params=chosen, json=patch), 200)
    shown = scim.post(USERS, params={"excludedAttributes": "emails,name"}, json=new_user(name={"givenName": "Ada"}))
    assert set(shown.json()) == {"schemas", "id", "meta", "userName", "active"}
    total = scim.search(count=0)["totalResults"]
    refused = scim.post(USERS, params={"attributes": "userName", "excludedAttributes": "emails"}, json=new_user())
    assert (refused.status_code, scim.search(count=0)["totalResults"]) == (400, total)
