"""One user on the admin page."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from support.api import USERS, create_user, unique_email, user_url
from support.browser import needs_chromium
from support.issuer import Issuer
from support.process import ServiceProcess
from support.visitor import Visitor, wait_for_file

pytestmark = needs_chromium
READ, WRITE = "users:read", "users:write"


@pytest.fixture
def show(admin: Visitor) -> Callable[[dict[str, str]], Visitor]:
    """Goes to a user, as a link does."""

    def show(user: dict[str, str]) -> Visitor:
        admin.page.value(f"location.hash = '#/user/{user['id']}'")
        admin.sees(user["id"])
        admin.actions = 0
        return admin

    return show


Show = Callable[[dict[str, str]], Visitor]


def test_every_field_can_be_edited_and_only_what_changed_is_sent(client: httpx.Client, show: Show) -> None:
    user = create_user(client, given_name="Ada", metadata={"plan": "free", "seats": 3}, preferences={"a": {"b": 1}})
    admin = show(user)
    alias = unique_email()
    entered = {
        "Display name": "Ada L.",
        "Given name": "",
        "Family name": "Lovelace",
        "Phone": "+44 20 7183 8750",
        "Locale": "en-GB",
        "Time zone": "Europe/London",
        "Aliases": alias,
        "Metadata": '{"plan": "pro", "seats": 3}',
        "Preferences": '{"a": {"c": [1, null]}}',
    }
    for label, text in entered.items():
        admin.enter(label, text)
    admin.tick("E-mail is verified")
    admin.sees("Not saved yet: E-mail is verified, Display name, Given name, Family name, Phone")
    admin.click("Save")
    admin.sees("The changes are saved.")

    stored = client.get(user_url(user)).json()
    audit = client.get(user_url(user, "/audit")).json()["items"]
    assert stored["version"] == 2
    assert (stored["given_name"], stored["family_name"], stored["display_name"]) == (None, "Lovelace", "Ada L.")
    assert (stored["phone"], stored["aliases"], stored["email_verified"]) == ("+442071838750", [alias], True)
    assert stored["metadata"] == {"plan": "pro", "seats": 3}
    assert stored["preferences"] == {"a": {"c": [1, None]}}
    assert set(audit[1]["changed"]).isdisjoint({"email", "external_id", "username"})
    assert admin.faults() == []


def test_what_the_service_refuses_stands_beside_its_field_and_nothing_is_lost(client: httpx.Client, show: Show) -> None:
    user = create_user(client)
    admin = show(user)
    admin.enter("Phone", "12")
    admin.enter("Display name", "Still here")
    admin.click("Save")

    admin.sees("must be a number in E.164 format")
    assert admin.focused == "Phone"
    assert admin.page.value("document.querySelector('[name=phone]').getAttribute('aria-invalid')") == "true"
    assert admin.page.value("document.querySelector('[name=display_name]').value") == "Still here"
    admin.enter("Phone", "+49 30 1234567")
    admin.press("Enter")
    admin.sees("The changes are saved.")


@pytest.mark.parametrize("text", ["{", "[]", "1", "null", '"x"'])
def test_json_that_is_no_object_is_not_sent(client: httpx.Client, show: Show, text: str) -> None:
    admin = show(create_user(client))
    admin.enter("Preferences", text)
    admin.click("Save")

    admin.sees('Write it as {"key": "value"}.')


def test_a_taken_address_is_explained(client: httpx.Client, show: Show) -> None:
    other = create_user(client)
    admin = show(create_user(client))
    admin.enter("E-mail", other["email"])
    admin.press("Enter")

    admin.sees("Request id for a report:")
    assert "already" in admin.text(".notice") or "another user" in admin.text(".notice").lower()


def test_changes_can_be_discarded_and_are_not_lost_by_a_click_elsewhere(client: httpx.Client, show: Show) -> None:
    user = create_user(client, given_name="Ada")
    admin = show(user)
    admin.enter("Given name", "Eve")
    admin.click("Users")
    admin.sees("Leave this view?")
    admin.click("Stay")
    admin.page.wait_for(f"location.hash.includes('{user['id']}')")
    assert admin.page.value("document.querySelector('[name=given_name]').value") == "Eve"
    admin.click("Discard")
    admin.sees_no("Not saved yet")
    admin.click("Users")
    admin.sees("Status")
    assert client.get(user_url(user)).json()["version"] == 1


def test_a_user_is_suspended_activated_deleted_and_restored(client: httpx.Client, show: Show) -> None:
    user = create_user(client)
    admin = show(user)

    admin.click("Suspend")
    admin.click("Suspend")
    admin.sees("The user is suspended.")
    admin.click("Activate")
    admin.sees("The user is active.")
    admin.click("Delete")
    admin.sees("A deleted user can be restored.")
    admin.click("Delete")
    admin.sees("The user is deleted.")
    assert not admin.has("Save")
    admin.click("Restore")
    admin.sees("The user is restored.")

    types = [change["type"] for change in client.get(user_url(user, "/audit")).json()["items"]]
    assert types == ["created", "status_changed", "status_changed", "deleted", "restored"]
    admin.sees("Restored to active")
    shown = admin.texts(".timeline li")
    assert [text.split()[0] for text in shown] == ["Restored", "Deleted", "Status", "Status", "Created"]
    assert all("(you)" in text for text in shown)
    assert admin.faults() == []


def test_cancelling_changes_nothing(client: httpx.Client, show: Show) -> None:
    user = create_user(client)
    admin = show(user)
    admin.click("Delete")
    admin.click("Cancel")
    admin.click("Suspend")
    admin.press("Escape")
    admin.page.wait_for("document.querySelector('dialog') === null")

    assert client.get(user_url(user)).json()["version"] == 1


def test_an_action_on_a_user_that_has_changed_does_nothing_and_shows_it_anew(client: httpx.Client, show: Show) -> None:
    user = create_user(client)
    admin = show(user)
    client.patch(user_url(user), json={"display_name": "Meanwhile"})
    admin.click("Suspend")
    admin.click("Suspend")

    admin.sees("This user was changed meanwhile, so nothing was done.")
    admin.sees("Meanwhile")
    assert client.get(user_url(user)).json()["status"] == "active"


def test_an_erasure_asks_for_the_address_and_leaves_a_tombstone(client: httpx.Client, show: Show) -> None:
    user = create_user(client, given_name="Ada", username="u" + unique_email().partition("@")[0])
    admin = show(user)
    assert not admin.has("Erase the person")
    admin.enter("To allow it, type the e-mail address", user["email"] + "x")
    assert not admin.has("Erase the person")
    admin.enter("To allow it, type the e-mail address", user["email"].upper())
    admin.click("Erase the person")

    admin.sees("The person is erased.")
    admin.sees("Erased person")
    assert user["email"] not in admin.text()
    assert client.get(user_url(user), params={"include": "deleted"}).json()["email"] is None
    assert not admin.has("Restore")
    admin.enter("To allow it, type the id", user["id"])
    admin.click("Purge the record")
    admin.sees("No user has this id.")
    admin.sees("Purged")
    assert client.get(user_url(user), params={"include": "deleted"}).status_code == 404


def test_the_export_of_a_person_is_saved_as_a_file(client: httpx.Client, show: Show, tmp_path: Path) -> None:
    user = create_user(client, given_name="Ada")
    admin = show(user)
    admin.save_files_to(tmp_path / "saved")
    admin.click("Export the person")

    document = json.loads(wait_for_file(tmp_path / "saved", f"user-{user['id']}.json"))
    assert document["user"]["email"] == user["email"]
    assert len(document["changes"]) == 1
    admin.sees("Protect it: it is not encrypted.")


def test_an_id_that_nothing_has_is_said(admin: Visitor) -> None:
    admin.page.value("location.hash = '#/user/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f'")

    admin.sees("No user has this id.")
    admin.sees("There is neither a user nor a change with this id.")


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ([READ], {"Export the person"}),
        ([READ, WRITE], {"Export the person", "Suspend"}),
        ([READ, "users:delete"], {"Export the person", "Delete"}),
        ([READ, "users:erase"], {"Export the person", "Erase the person"}),
        ([READ, "users:purge"], {"Export the person", "Purge the record"}),
    ],
)
def test_what_the_scopes_do_not_allow_is_not_there(
    admin_service: ServiceProcess,
    client: httpx.Client,
    people: Issuer,
    visitor: Visitor,
    scopes: list[str],
    allowed: set[str],
) -> None:
    user = create_user(client)
    visitor.open(f"{admin_service.url}/admin#/user/{user['id']}")
    visitor.sign_in(people.token(scope=" ".join(scopes)))
    visitor.sees("Who changed what")

    buttons = {name for name in visitor.texts("main button") if name not in {"Save", "Discard", ""}}
    assert buttons == allowed
    assert visitor.page.value("document.querySelector('[name=email]').readOnly") is (WRITE not in scopes)


def test_a_token_without_a_scope_is_told_what_it_lacks(
    admin_service: ServiceProcess, people: Issuer, visitor: Visitor
) -> None:
    visitor.open(f"{admin_service.url}/admin")
    visitor.sign_in(people.token())

    visitor.sees("it lacks the scope users:read")
    assert visitor.faults() == []


def test_a_long_trail_is_read_in_pages(client: httpx.Client, show: Show) -> None:
    user = create_user(client)
    items = [{"id": user["id"], "data": {"locale": locale}} for locale in ("en", "de")]
    for _ in range(105):
        for item in items:
            assert client.post(f"{USERS}/batch/update", json={"items": [item]}).status_code == 200
    admin = show(user)

    admin.page.wait_for("document.querySelectorAll('.timeline li').length === 211")


def test_keys_that_scripts_give_a_meaning_are_kept_as_they_are(client: httpx.Client, show: Show) -> None:
    user = create_user(client, metadata={"prototype": "c"}, preferences={"__proto__": {"x": 1}})
    admin = show(user)
    admin.enter("Metadata", '{"prototype": "c", "__proto__": "a", "constructor": "b", "toString": 1}')
    admin.enter("Preferences", '{"__proto__": {"x": 1, "y": {"__proto__": 2}}}')
    admin.click("Save")
    admin.sees("The changes are saved.")

    stored = client.get(user_url(user)).json()
    assert stored["metadata"] == {"prototype": "c", "__proto__": "a", "constructor": "b", "toString": 1}
    assert stored["preferences"] == {"__proto__": {"x": 1, "y": {"__proto__": 2}}}
    assert admin.faults() == []
