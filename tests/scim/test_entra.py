"""What Entra ID sends, as its public description shows it, and as it is known to deviate from the RFCs."""

import json
from typing import Any
from uuid import uuid4

import pytest

from support.scim import CORE, ENTERPRISE, PATCH, USERS, ScimClient, check_user, expect_scim_error, unique_name

pytestmark = pytest.mark.distributed

WORK = 'emails[type eq "work"]'


def entra_user(**attributes: Any) -> dict[str, Any]:
    """The body of a new user as Entra ID sends it."""
    name = f"Test_User_{uuid4()}"
    return {
        "schemas": [CORE, ENTERPRISE],
        "externalId": str(uuid4()),
        "userName": name,
        "active": True,
        "emails": [{"primary": True, "type": "work", "value": f"{name}@testuser.example.org"}],
        "meta": {"resourceType": "User"},
        "name": {"formatted": "givenName familyName", "familyName": "familyName", "givenName": "givenName"},
        "roles": [],
        **attributes,
    }


def create(scim: ScimClient, **attributes: Any) -> dict[str, Any]:
    return check_user(scim.post(USERS, json=entra_user(**attributes)))


def test_the_documented_life_of_a_user(scim: ScimClient) -> None:
    missing = scim.search(f'userName eq "{uuid4()}"')
    assert (missing["totalResults"], missing["Resources"], missing["startIndex"]) == (0, [], 1)
    created = create(scim)
    address = f"{USERS}/{created['id']}"
    assert created["meta"]["resourceType"] == "User"
    assert scim.get(address).json() == created
    (found,) = scim.search(f'userName eq "{created["userName"]}"')["Resources"]
    assert found == created
    (found,) = scim.search(f'externalId eq "{created["externalId"]}"')["Resources"]
    assert found == created

    email = f"{uuid4()}@testuser.example.org"
    changed = scim.patched(
        created,
        {"op": "Replace", "path": f"{WORK}.value", "value": email},
        {"op": "Replace", "path": "name.familyName", "value": "updatedFamilyName"},
    )
    assert (changed["emails"][0]["value"], changed["name"]["familyName"]) == (email, "updatedFamilyName")
    name = f"{uuid4()}@testuser.example.org"
    assert scim.patched(created, {"op": "Replace", "path": "userName", "value": name})["userName"] == name
    assert scim.patched(created, {"op": "Replace", "path": "active", "value": False})["active"] is False
    assert scim.delete(address).status_code == 204
    expect_scim_error(scim.get(address), 404)


def test_the_flag_of_the_tenant_url_does_not_matter(scim: ScimClient) -> None:
    created = create(scim)

    url = f'{USERS}?aadOptscim062020&filter=userName eq "{created["userName"]}"'
    assert scim.get(url).json()["Resources"] == [created]


@pytest.mark.parametrize("written", ["False", "false", False])
def test_a_boolean_may_be_text(scim: ScimClient, written: Any) -> None:
    created = create(scim)

    assert scim.patched(created, {"op": "Replace", "path": "active", "value": written})["active"] is False
    shown = scim.patched(created, {"op": "Add", "value": {"active": str(True)}})
    assert shown["active"] is True


def test_an_entry_that_is_not_there_yet_is_made(scim: ScimClient) -> None:
    created = create(scim)
    home, mobile = unique_name(), "+12015550123"

    shown = scim.patched(
        created,
        {"op": "Add", "path": 'emails[type eq "home"].value', "value": home},
        {"op": "Replace", "path": 'phoneNumbers[type eq "mobile"].value', "value": mobile},
        {"op": "Add", "path": 'addresses[type eq "work"].formatted', "value": "1 Main Street"},
        {"op": "Add", "path": 'roles[primary eq "True"].value', "value": "Engineer"},
    )

    assert {"value": home, "type": "home"} in shown["emails"]
    assert shown["phoneNumbers"] == [{"value": mobile, "type": "mobile"}]
    assert shown["addresses"] == [{"formatted": "1 Main Street", "type": "work"}]
    assert shown["roles"] == [{"value": "Engineer", "primary": True}]


def test_paths_are_keys_of_a_value(scim: ScimClient) -> None:
    created = create(scim)
    email = unique_name()

    shown = scim.patched(
        created,
        {
            "op": "replace",
            "value": {
                "displayName": "Shown",
                "name.givenName": "Given",
                f"{WORK}.value": email,
                f"{ENTERPRISE}:department": "Engineering",
                f"{ENTERPRISE}:manager": "a-manager",
            },
        },
    )

    assert (shown["displayName"], shown["name"]["givenName"], shown["emails"][0]["value"]) == ("Shown", "Given", email)
    assert shown[ENTERPRISE] == {"department": "Engineering", "manager": {"value": "a-manager"}}


def test_a_manager_is_a_bare_id_an_object_and_taken_away(scim: ScimClient) -> None:
    created = create(scim, **{ENTERPRISE: {"manager": "first", "employeeNumber": "7"}})
    path = f"{ENTERPRISE}:manager"
    assert created[ENTERPRISE]["manager"] == {"value": "first"}

    shown = scim.patched(created, {"op": "Replace", "path": path, "value": "second"})
    assert shown[ENTERPRISE]["manager"] == {"value": "second"}
    shown = scim.patched(created, {"op": "Replace", "path": path, "value": {"value": "third"}})
    assert shown[ENTERPRISE]["manager"] == {"value": "third"}
    shown = scim.patched(created, {"op": "Replace", "path": path, "value": ""})
    assert shown[ENTERPRISE] == {"employeeNumber": "7"}
    scim.patched(created, {"op": "Add", "path": path, "value": "fourth"})
    assert "manager" not in scim.patched(created, {"op": "Remove", "path": path})[ENTERPRISE]


def test_add_replaces_a_single_value_and_paths_may_name_the_schema(scim: ScimClient) -> None:
    created = create(scim, displayName="Before")

    shown = scim.patched(
        created,
        {"op": "Add", "path": "displayName", "value": "After"},
        {"op": "Add", "path": f"{CORE}:title", "value": "Engineer"},
        {"op": "Add", "path": f"{CORE}:name.givenName", "value": "Given"},
    )

    assert (shown["displayName"], shown["title"], shown["name"]["givenName"]) == ("After", "Engineer", "Given")


def test_an_entry_is_removed_by_its_value(scim: ScimClient) -> None:
    other = unique_name()
    created = create(scim)
    scim.patched(created, {"op": "Add", "path": "emails", "value": [{"type": "other", "value": other}]})

    shown = scim.patched(created, {"op": "Remove", "path": "emails", "value": [{"value": other}]})

    assert [email["value"] for email in shown["emails"]] == [created["emails"][0]["value"]]


def test_users_are_matched_by_an_address_of_a_type(scim: ScimClient) -> None:
    created = create(scim)
    address = created["emails"][0]["value"]

    assert scim.names(f'{WORK}.value eq "{address}"') == [created["userName"]]
    assert scim.names(f'emails[type eq "home"].value eq "{address}"') == []
    assert scim.names(f'emails[type eq "work" and value eq "{address}"]') == [created["userName"]]
    assert scim.search(f'{WORK}.value eq "{address}"', attributes="id")["Resources"][0].keys() == {"schemas", "id"}


def test_an_attribute_of_no_schema_changes_nothing(scim: ScimClient) -> None:
    created = create(scim)

    shown = scim.patched(
        created,
        {"op": "Add", "path": "urn:ietf:params:scim:schemas:extension:2.0:User:costCode", "value": "x"},
        {"op": "Add", "path": "extensionAttribute1", "value": "x"},
        {"op": "Replace", "path": "title", "value": "Engineer"},
    )

    assert shown["title"] == "Engineer"
    assert "extensionAttribute1" not in json.dumps(shown)


def test_a_patch_that_fails_changes_nothing(scim: ScimClient) -> None:
    created = create(scim)

    response = scim.patch_user(
        created,
        {"op": "Replace", "path": "title", "value": "Engineer"},
        {"op": "Replace", "path": f"{WORK}.value", "value": "none"},
    )

    expect_scim_error(response, 400, "invalidValue")
    assert scim.read(created) == created


def test_a_removed_address_must_leave_one(scim: ScimClient) -> None:
    created = create(scim)

    expect_scim_error(scim.patch_user(created, {"op": "Remove", "path": "emails"}), 400, "invalidValue")
    assert scim.read(created) == created


def test_a_user_without_a_mailbox_has_the_address_of_its_name(scim: ScimClient) -> None:
    name = unique_name()
    body = {key: value for key, value in entra_user(userName=name).items() if key != "emails"}

    created = check_user(scim.post(USERS, json=body))

    assert created["emails"] == [{"value": name, "type": "work", "primary": True}]


def test_a_body_in_json_of_another_case_and_with_a_charset(scim: ScimClient) -> None:
    created = create(scim)
    body = {"schemas": [PATCH], "operations": [{"OP": "replace", "Path": "title", "Value": "Engineer"}]}

    response = scim.patch(
        f"{USERS}/{created['id']}",
        content=json.dumps(body),
        headers={"Content-Type": "application/scim+json; charset=utf-8"},
    )

    assert check_user(response)["title"] == "Engineer"
