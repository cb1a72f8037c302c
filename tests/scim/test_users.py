"""One user of `/scim/v2`: what was sent comes back, and the service's own interface has it in its fields."""

from typing import Any

import pytest

from support.live_server import LiveServer
from support.scim import (
    CORE,
    ENTERPRISE,
    METADATA,
    USERS,
    ScimClient,
    expect_scim_error,
    new_user,
    unique_name,
    without_server,
)

pytestmark = pytest.mark.distributed

FULL: dict[str, Any] = {
    "externalId": "00u1",
    "name": {"formatted": "Ms Ada King", "familyName": "King", "givenName": "Ada", "honorificPrefix": "Ms"},
    "displayName": "Ada King",
    "nickName": "Ada",
    "profileUrl": "https://example.org/ada",
    "title": "Countess",
    "userType": "Employee",
    "preferredLanguage": "en-GB",
    "locale": "en_GB",
    "timezone": "Europe/London",
    "active": True,
    "phoneNumbers": [{"value": "tel:+44 20 7183 8750", "type": "mobile"}, {"value": "ext. 7", "type": "other"}],
    "ims": [{"value": "ada", "type": "xmpp"}],
    "photos": [{"value": "https://example.org/ada.png", "type": "photo"}],
    "addresses": [{"type": "work", "locality": "London", "country": "GB", "primary": True}],
    "entitlements": [{"value": "engine"}],
    "roles": [{"value": "author", "primary": True}],
    "x509Certificates": [{"value": "TUlJRA=="}],
    ENTERPRISE: {"employeeNumber": "7", "department": "Mathematics", "manager": {"value": "charles"}},
    METADATA: {"metadata": [{"name": "plan", "value": "pro"}, {"name": "seats", "value": "5"}]},
    "urn:example:own:1.0:User": {"badge": {"colour": "red", "numbers": [1, 2.5, None, True]}},
    "favouriteColour": "green",
}


def read_fields(server: LiveServer, user: dict[str, Any]) -> dict[str, Any]:
    """The user as the service's own interface shows it."""
    with server.client() as client:
        response = client.get(f"/api/v1/users/{user['id']}", headers={"Cache-Control": "no-cache"})
        assert response.status_code == 200, response.text
        fields: dict[str, Any] = response.json()
        return fields


def test_what_was_sent_comes_back_and_stands_in_the_fields(scim_server: LiveServer, scim: ScimClient) -> None:
    emails = [
        {"value": "Ada.Work@EXAMPLE.org", "type": "work", "display": "at work"},
        {"value": "ada.home@example.org", "type": "home", "primary": True},
        {"value": "ada.third@example.org"},
    ]
    sent = new_user(userName="ada", emails=emails, **FULL)

    created = scim.make(**{**sent, "password": "correct horse"})

    assert without_server(created) == without_server(sent)
    assert without_server(scim.read(created)) == without_server(sent)
    assert set(created["schemas"]) == {CORE, ENTERPRISE, METADATA, "urn:example:own:1.0:User"}
    fields = read_fields(scim_server, created)
    assert {
        name: fields[name] for name in ("username", "external_id", "given_name", "family_name", "display_name")
    } == {
        "username": "ada",
        "external_id": "00u1",
        "given_name": "Ada",
        "family_name": "King",
        "display_name": "Ada King",
    }
    assert fields["email"] == "ada.home@example.org"
    assert fields["aliases"] == ["Ada.Work@example.org", "ada.third@example.org"]
    assert (fields["phone"], fields["locale"], fields["timezone"]) == ("+442071838750", "en-GB", "Europe/London")
    assert (fields["status"], fields["metadata"]) == ("active", {"plan": "pro", "seats": "5"})


def test_a_put_of_what_was_read_changes_nothing(scim: ScimClient) -> None:
    created = scim.make(**{**FULL, "externalId": unique_name()})

    replaced = scim.put(f"{USERS}/{created['id']}", json=created)

    assert replaced.json() == created


def test_the_password_is_never_kept(scim_server: LiveServer, scim: ScimClient) -> None:
    created = scim.make(password="correct horse")
    scim.patched(created, {"op": "replace", "path": "password", "value": "battery staple"})

    with scim_server.client() as client:
        export = client.get(f"/api/v1/users/{created['id']}/export").text
    assert "correct horse" not in export
    assert "battery staple" not in export


def test_what_has_no_field_is_part_of_the_export_and_gone_after_an_erasure(
    scim_server: LiveServer, scim: ScimClient
) -> None:
    created = scim.make(title="Countess of Lovelace")
    address = f"/api/v1/users/{created['id']}"

    with scim_server.client() as client:
        assert client.get(f"{address}/export").json()["stored"]["scim"] == {"title": "Countess of Lovelace"}
        assert client.post(f"{address}/erase").status_code == 204
        assert client.get(f"{address}/export").json()["stored"]["scim"] == {}
    expect_scim_error(scim.get(f"{USERS}/{created['id']}"), 404)


def test_what_has_no_field_is_kept_by_changes_of_other_callers_and_by_a_restore(
    scim_server: LiveServer, scim: ScimClient
) -> None:
    created = scim.make(title="Countess", timezone="Pacific Standard Time", locale="de_AT")
    address = f"/api/v1/users/{created['id']}"

    with scim_server.client() as client:
        client.patch(address, json={"given_name": "Ada"}).raise_for_status()
        scim.delete(f"{USERS}/{created['id']}").raise_for_status()
        client.post(f"{address}/restore").raise_for_status()
    shown = scim.read(created)
    assert (shown["title"], shown["name"]["givenName"]) == ("Countess", "Ada")
    assert (shown["timezone"], shown["locale"]) == ("Pacific Standard Time", "de_AT")

    with scim_server.client() as client:
        client.patch(address, json={"timezone": "Europe/Vienna", "locale": "de-DE"}).raise_for_status()
    shown = scim.read(created)
    assert (shown["timezone"], shown["locale"]) == ("Europe/Vienna", "de-DE")


def test_a_user_of_another_caller_shows_its_address_as_its_name(scim_server: LiveServer, scim: ScimClient) -> None:
    address = unique_name()
    alias = unique_name()
    with scim_server.client() as client:
        body = {"email": address, "aliases": [alias], "phone": "+442071838750"}
        user = client.post("/api/v1/users", json=body).json()

    shown = scim.read(user)

    assert without_server(shown) == {
        "userName": address,
        "active": True,
        "emails": [{"value": address, "type": "work", "primary": True}, {"value": alias, "type": "other"}],
        "phoneNumbers": [{"value": "+442071838750", "type": "work"}],
    }
    assert scim.names(f'userName eq "{address.upper()}"') == [address]
    expect_scim_error(
        scim.post(USERS, json=new_user(userName=address, emails=[{"value": unique_name()}])), 409, "uniqueness"
    )


def test_addresses_and_numbers_that_others_change_are_shown_with_what_was_sent_of_the_rest(
    scim_server: LiveServer, scim: ScimClient
) -> None:
    first, second, third = (unique_name() for _ in range(3))
    emails = [{"value": first, "type": "work", "primary": True}, {"value": second, "type": "home", "display": "h"}]
    numbers = [{"value": "+1 201 555 0123", "type": "mobile", "display": "m"}, {"value": "12", "type": "fax"}]
    created = scim.make(emails=emails, phoneNumbers=numbers)

    with scim_server.client() as client:
        body = {"email": second, "aliases": [third], "phone": "+12015550199"}
        client.patch(f"/api/v1/users/{created['id']}", json=body).raise_for_status()

    shown = scim.read(created)
    assert shown["emails"] == [
        {"value": second, "type": "home", "display": "h"},
        {"value": third, "type": "other"},
    ]
    assert shown["phoneNumbers"] == [{"value": "+12015550199", "type": "mobile", "display": "m"}, numbers[1]]
    with scim_server.client() as client:
        client.patch(f"/api/v1/users/{created['id']}", json={"phone": None}).raise_for_status()
    assert scim.read(created)["phoneNumbers"] == [numbers[1]]


def test_active_suspends_and_activates_and_a_suspended_user_stays_listed(
    scim_server: LiveServer, scim: ScimClient
) -> None:
    created = scim.make(active=False)
    assert read_fields(scim_server, created)["status"] == "suspended"
    assert created["active"] is False
    assert scim.names(f'id eq "{created["id"]}"') == [created["userName"]]

    for active, status in ((True, "active"), (False, "suspended")):
        shown = scim.patched(created, {"op": "replace", "path": "active", "value": active})
        assert shown["active"] is active
        assert read_fields(scim_server, created)["status"] == status
    shown = scim.put(f"{USERS}/{created['id']}", json=new_user(userName=created["userName"])).json()
    assert shown["active"] is False


def test_a_pending_user_is_not_active_until_it_is_activated(scim_server: LiveServer, scim: ScimClient) -> None:
    with scim_server.client() as client:
        user = client.post("/api/v1/users", json={"email": unique_name(), "status": "pending"}).json()

    assert scim.read(user)["active"] is False
    scim.patched(user, {"op": "replace", "path": "active", "value": False})
    assert read_fields(scim_server, user)["status"] == "pending"
    scim.patched(user, {"op": "replace", "path": "active", "value": True})
    assert read_fields(scim_server, user)["status"] == "active"


def test_a_deleted_user_is_gone_and_its_name_makes_a_new_one(scim_server: LiveServer, scim: ScimClient) -> None:
    created = scim.make()

    assert scim.delete(f"{USERS}/{created['id']}").status_code == 204

    for method, body in (("GET", None), ("PUT", created), ("DELETE", None)):
        expect_scim_error(scim.request(method, f"{USERS}/{created['id']}", json=body), 404)
    expect_scim_error(scim.patch_user(created, {"op": "replace", "path": "active", "value": True}), 404)
    assert scim.names(f'userName eq "{created["userName"]}"') == []
    assert scim.make(userName=created["userName"])["id"] != created["id"]
    with scim_server.client() as client:
        deleted = client.get(f"/api/v1/users/{created['id']}?include=deleted").json()
    assert deleted["status"] == "deleted"


def test_put_replaces_what_an_identity_provider_owns(scim_server: LiveServer, scim: ScimClient) -> None:
    created = scim.make(**{**FULL, "externalId": unique_name()})
    with scim_server.client() as client:
        client.patch(f"/api/v1/users/{created['id']}", json={"preferences": {"theme": "dark"}}).raise_for_status()

    replacement = new_user(userName=created["userName"], title="Lady")
    shown = scim.put(f"{USERS}/{created['id']}", json=replacement)

    kept = {"active": True, METADATA: created[METADATA]}
    assert without_server(shown.json()) == {**without_server(replacement), **kept}
    fields = read_fields(scim_server, created)
    assert (fields["given_name"], fields["phone"], fields["external_id"]) == (None, None, None)
    assert fields["preferences"] == {"theme": "dark"}


def test_what_json_can_hold_is_kept_and_what_means_the_service_is_not(scim: ScimClient) -> None:
    kept = {"text": 'a\0b "quoted" \u2028 \U0001f600', "large": 2**63 - 1, "small": -(2**63), "ratio": 1e-300}
    created = scim.make(own=kept, scim={"a": 1}, META={"version": "x"}, ID="x", **{CORE: {"title": "x"}})

    shown = scim.read(created)

    assert (shown["own"], shown["scim"]) == (kept, {"a": 1})
    assert shown["schemas"] == [CORE]
    assert "title" not in shown


def test_metadata_is_written_as_text_and_keeps_the_types_of_other_callers(
    scim_server: LiveServer, scim: ScimClient
) -> None:
    created = scim.make(**{METADATA: {"metadata": [{"name": "plan", "value": "pro"}, {"name": "code", "value": "5"}]}})
    assert read_fields(scim_server, created)["metadata"] == {"plan": "pro", "code": "5"}
    with scim_server.client() as client:
        body = {"metadata": {"seats": 5, "trial": True, "ratio": 0.5}}
        client.patch(f"/api/v1/users/{created['id']}", json=body).raise_for_status()

    path = f"{METADATA}:metadata"
    shown = scim.patched(
        created,
        {"op": "remove", "path": f'{path}[name eq "plan"]'},
        {"op": "add", "path": f'{path}[name eq "region"].value', "value": "eu"},
        {"op": "replace", "path": f'{path}[name eq "ratio"].value', "value": "0.25"},
    )
    shown = scim.put(f"{USERS}/{created['id']}", json=shown).json()

    written = {entry["name"]: entry["value"] for entry in shown[METADATA]["metadata"]}
    assert written == {"code": "5", "seats": "5", "trial": "true", "ratio": "0.25", "region": "eu"}
    assert read_fields(scim_server, created)["metadata"] == {
        "code": "5",
        "seats": 5,
        "trial": True,
        "ratio": "0.25",
        "region": "eu",
    }
    assert METADATA not in scim.patched(created, {"op": "remove", "path": path})
    assert read_fields(scim_server, created)["metadata"] == {}


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"userName": " "}, "userName"),
        ({"userName": "ada", "emails": []}, "emails"),
        ({"emails": [{"value": "no address"}]}, "emails"),
        ({"emails": [{"value": f"{place}@example.org"} for place in range(12)]}, "emails"),
        ({"displayName": "x" * 201}, "displayName"),
        ({"name": {"givenName": "a\nb"}}, "name.givenName"),
        ({"title": "x" * 16_384}, "no field"),
        ({"favourites": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}, "no field"),
        ({METADATA: {"metadata": [{"value": "x"}]}}, "name"),
        ({METADATA: {"metadata": [{"name": "n", "value": "1"}, {"name": "n", "value": "2"}]}}, "metadata"),
    ],
)
def test_what_a_user_can_not_be_is_an_invalid_value_that_names_the_attribute(
    scim: ScimClient, attributes: dict[str, Any], named: str
) -> None:
    detail = expect_scim_error(scim.post(USERS, json=new_user(**attributes)), 400, "invalidValue")

    assert named in detail


def test_two_users_can_not_have_one_name_address_or_external_id(scim: ScimClient) -> None:
    external_id = unique_name()
    first = scim.make(externalId=external_id)
    second = scim.make()

    for attributes in (
        {"userName": first["userName"].upper(), "emails": [{"value": unique_name()}]},
        {"userName": unique_name(), "emails": first["emails"]},
        {"externalId": external_id},
    ):
        expect_scim_error(scim.post(USERS, json=new_user(**attributes)), 409, "uniqueness")
    replacement = new_user(userName=first["userName"], emails=second["emails"])
    expect_scim_error(scim.put(f"{USERS}/{second['id']}", json=replacement), 409, "uniqueness")
    operation = {"op": "replace", "path": "externalId", "value": external_id}
    expect_scim_error(scim.patch_user(second, operation), 409, "uniqueness")
    assert scim.read(second) == second


def test_a_condition_on_the_version_is_kept(scim: ScimClient) -> None:
    created = scim.make()
    address, first = f"{USERS}/{created['id']}", created["meta"]["version"]
    change = {"op": "replace", "path": "title", "value": "Countess"}

    changed = scim.patch_user(created, change, headers={"If-Match": first})
    second = changed.json()["meta"]["version"]

    assert (changed.status_code, second != first) == (200, True)
    for response in (
        scim.patch_user(created, change, headers={"If-Match": first}),
        scim.put(address, json=new_user(), headers={"If-Match": first}),
        scim.delete(address, headers={"If-Match": first}),
    ):
        expect_scim_error(response, 412)
    unchanged = scim.get(address, headers={"If-None-Match": second})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", second)
    assert scim.get(address, headers={"If-None-Match": first}).status_code == 200
    # A change to what is there already leaves the version.
    assert scim.patched(created, change)["meta"]["version"] == second
    assert scim.delete(address, headers={"If-Match": second}).status_code == 204


def test_an_idempotency_key_gives_the_first_response_again(scim: ScimClient) -> None:
    body, key = new_user(), {"Idempotency-Key": unique_name()}

    first = scim.post(USERS, json=body, headers=key)
    again = scim.post(USERS, json=body, headers=key)
    other = scim.post(USERS, json=new_user(), headers=key)

    assert first.status_code == 201
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    expect_scim_error(other, 400)
    refused = [scim.post(USERS, json=body, headers={"Idempotency-Key": f"{body['userName']}-2"}) for _ in range(2)]
    assert [expect_scim_error(response, 409, "uniqueness") for response in refused]
    assert refused[1].headers["idempotency-replayed"] == "true"


def test_changes_are_logged_with_the_names_of_fields(scim_server: LiveServer, scim: ScimClient) -> None:
    created = scim.make(title="Countess")
    scim.patched(created, {"op": "replace", "path": "title", "value": "Lady"})
    scim.patched(created, {"op": "replace", "path": "active", "value": False})

    with scim_server.client() as client:
        changes = client.get(f"/api/v1/users/{created['id']}/audit").json()["items"]
    by_version = {change["version"]: (change["type"], change["changed"]) for change in changes}
    assert "scim" in by_version[1][1]
    assert by_version[2] == ("updated", ["scim"])
    assert by_version[3] == ("status_changed", ["status"])


def test_a_read_after_a_change_sees_it_in_the_service_s_own_interface(
    scim_server: LiveServer, scim: ScimClient
) -> None:
    created = scim.make(displayName="Ada")
    with scim_server.client() as client:
        address = f"/api/v1/users/{created['id']}"
        assert client.get(address).json()["display_name"] == "Ada"
        scim.patched(created, {"op": "replace", "path": "displayName", "value": "Ada King"})
        assert client.get(address).json()["display_name"] == "Ada King"
