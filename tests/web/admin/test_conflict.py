"""Two changes of one user at once, on the admin page."""

from typing import Any

import httpx
import pytest

from support.api import create_user, user_url
from support.browser import needs_chromium
from support.visitor import Visitor

pytestmark = needs_chromium


@pytest.fixture
def user(client: httpx.Client, admin: Visitor) -> dict[str, Any]:
    """A user that the page shows, with two fields changed and not saved."""
    user = create_user(
        client, given_name="Ada", family_name="Byron", locale="en", metadata={"plan": "free", "seats": 1}
    )
    admin.page.value(f"location.hash = '#/user/{user['id']}'")
    admin.enter("Family name", "Lovelace")
    admin.enter("Metadata", '{"plan": "pro", "seats": 1}')
    return user


def change_behind(client: httpx.Client, user: dict[str, Any], **fields: Any) -> None:
    assert client.patch(user_url(user), json=fields).status_code == 200


def test_another_change_stands_beside_ones_own_and_nothing_is_overwritten(
    client: httpx.Client, admin: Visitor, user: dict[str, Any]
) -> None:
    change_behind(client, user, family_name="King", locale="de")
    admin.click("Save")
    admin.sees("This user was changed meanwhile")

    shown = admin.texts("dialog fieldset")
    actor = client.get(user_url(user, "/audit")).json()["items"][1]["actor"]
    assert f"The other change was made by {actor}" in admin.text("dialog")
    family = next(text for text in shown if text.startswith("Family name"))
    assert "changed by both" in family
    assert "stored now: King" in family
    assert "yours: Lovelace" in family
    assert any(text.startswith("Locale") and "stored now: de" in text and "yours" not in text for text in shown)
    assert client.get(user_url(user)).json()["version"] == 2

    admin.click("Save what is chosen")
    admin.sees("The changes are saved.")
    stored = client.get(user_url(user)).json()
    assert (stored["family_name"], stored["locale"], stored["metadata"]["plan"]) == ("King", "de", "pro")
    assert (stored["version"], stored["metadata"]["seats"]) == (3, 1)
    assert admin.faults() == []


def test_ones_own_value_can_be_chosen(client: httpx.Client, admin: Visitor, user: dict[str, Any]) -> None:
    change_behind(client, user, family_name="King")
    admin.click("Save")
    admin.sees("changed by both")
    admin.click_element("document.querySelector('[name=choose_family_name][value=entered]')")
    admin.click("Save what is chosen")
    admin.sees("The changes are saved.")

    assert client.get(user_url(user)).json()["family_name"] == "Lovelace"


def test_a_third_change_meanwhile_asks_again(client: httpx.Client, admin: Visitor, user: dict[str, Any]) -> None:
    change_behind(client, user, locale="de")
    admin.click("Save")
    admin.sees("stored now: de")
    change_behind(client, user, locale="fr")
    admin.click("Save what is chosen")
    admin.sees("stored now: fr")
    admin.click("Save what is chosen")
    admin.sees("The changes are saved.")

    stored = client.get(user_url(user)).json()
    assert (stored["family_name"], stored["locale"], stored["version"]) == ("Lovelace", "fr", 4)


def test_ones_own_changes_can_be_discarded(client: httpx.Client, admin: Visitor, user: dict[str, Any]) -> None:
    change_behind(client, user, locale="de")
    admin.click("Save")
    admin.click("Discard my changes")
    admin.sees("Your changes are discarded.")

    assert admin.page.value("document.querySelector('[name=family_name]').value") == "Byron"
    assert client.get(user_url(user)).json()["version"] == 2


def test_escape_goes_back_to_what_was_entered(client: httpx.Client, admin: Visitor, user: dict[str, Any]) -> None:
    change_behind(client, user, locale="de")
    admin.click("Save")
    admin.sees("This user was changed meanwhile")
    admin.press("Escape")
    admin.page.wait_for("document.querySelector('dialog') === null")

    assert admin.page.value("document.querySelector('[name=family_name]').value") == "Lovelace"
    admin.sees("Not saved yet")


def test_a_user_that_was_deleted_meanwhile_is_shown_as_it_is(
    client: httpx.Client, admin: Visitor, user: dict[str, Any]
) -> None:
    client.delete(user_url(user))
    admin.click("Save")

    admin.sees("Restore")
    admin.sees_no("Not saved yet")
