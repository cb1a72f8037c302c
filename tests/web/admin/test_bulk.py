"""Many users at once, on the admin page."""

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, unique_email, user_url
from support.browser import needs_chromium
from support.visitor import Visitor
from support.waiting import wait_until

pytestmark = needs_chromium
COUNT = 12


@pytest.fixture
def plan() -> str:
    return f"plan-{uuid4().hex[:8]}"


@pytest.fixture
def users(client: httpx.Client, plan: str) -> list[dict[str, Any]]:
    return [create_user(client, metadata={"plan": plan}) for _ in range(COUNT)]


@pytest.fixture
def listed(admin: Visitor, users: list[dict[str, Any]], plan: str) -> Visitor:
    admin.page.value(f"location.hash = '#/users?metadata.plan={plan}'")
    admin.sees(f"{COUNT} users")
    admin.page.wait_for(f"document.querySelectorAll('tbody tr').length === {COUNT}")
    admin.actions = 0
    return admin


@pytest.fixture
def stored(client: httpx.Client, plan: str) -> Callable[[], list[dict[str, Any]]]:
    def stored() -> list[dict[str, Any]]:
        query = {"metadata.plan": plan, "include": "deleted"}
        items: list[dict[str, Any]] = client.get(USERS, params=query).json()["items"]
        return items

    return stored


Stored = Callable[[], list[dict[str, Any]]]


def tick_row(visitor: Visitor, user: dict[str, Any]) -> None:
    visitor.click_element(f"document.querySelector('tr[data-id=\"{user['id']}\"] input')")


def test_a_dry_run_comes_first_and_changes_nothing(listed: Visitor, stored: Stored) -> None:
    listed.click("Select all")
    listed.sees(f"{COUNT} users selected")
    listed.click("Suspend")
    listed.sees(f"Dry run: {COUNT} users can be suspended, 0 can not.")
    assert {user["status"] for user in stored()} == {"active"}
    listed.click("Cancel")
    assert {user["version"] for user in stored()} == {1}

    listed.click("Suspend")
    listed.click(f"Suspend {COUNT} users")
    listed.sees(f"{COUNT} users suspended, 0 failed.")
    assert {user["status"] for user in stored()} == {"suspended"}
    listed.click("Close")
    listed.page.wait_for("document.querySelector('tbody').innerText.includes('suspended')")
    listed.sees_no("users selected")
    assert listed.faults() == []


def test_some_are_selected_and_only_they_are_changed(
    listed: Visitor, users: list[dict[str, Any]], stored: Stored
) -> None:
    tick_row(listed, users[1])
    tick_row(listed, users[3])
    listed.sees("2 users selected")
    listed.click("Delete")
    listed.click("Delete 2 users")
    listed.sees("2 users deleted, 0 failed.")

    assert [index for index, user in enumerate(stored()) if user["status"] == "deleted"] == [1, 3]


def test_deleted_users_are_restored_and_others_activated(
    listed: Visitor, client: httpx.Client, users: list[dict[str, Any]], stored: Stored
) -> None:
    for user in users[:3]:
        client.delete(user_url(user))
    for user in users[3:5]:
        client.post(user_url(user, "/suspend"))
    listed.choose("Status", "deleted")
    listed.sees("3 users")
    listed.click("Select all")
    listed.click("Restore")
    listed.click("Restore 3 users")
    listed.click("Close")
    listed.choose("Status", "suspended")
    listed.sees("2 users")
    listed.click("Select all")
    listed.click("Activate")
    listed.click("Activate 2 users")
    listed.sees("2 users activated, 0 failed.")

    assert {user["status"] for user in stored()} == {"active"}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("text", "pro", "pro"), ("number", "3", 3), ("true or false", "true", True), ("text", "", None)],
)
def test_metadata_is_set(listed: Visitor, stored: Stored, kind: str, text: str, value: object) -> None:
    listed.click("Select all")
    listed.click("Set metadata")
    listed.enter("Key, as plan", "seats")
    listed.enter("Value", text or "gone")
    if not text:
        listed.enter("Value", "")
    listed.choose("Kind of value", kind)
    listed.click("Dry run")
    listed.click(f"Set metadata {COUNT} users")
    listed.sees(f"{COUNT} users changed, 0 failed.")

    assert [user["metadata"].get("seats") for user in stored()] == [value] * COUNT


def test_a_value_that_is_no_number_is_not_accepted(listed: Visitor) -> None:
    listed.click("Select all")
    listed.click("Set metadata")
    listed.enter("Key, as plan", "seats")
    listed.choose("Kind of value", "number")
    listed.enter("Value", "three")
    listed.click("Dry run")

    assert not listed.page.value("document.querySelector('dialog form').checkValidity()")


def test_what_fails_is_told_by_reason_and_saved_as_a_file(
    listed: Visitor, client: httpx.Client, users: list[dict[str, Any]], stored: Stored, tmp_path: Path
) -> None:
    listed.save_files_to(tmp_path / "saved")
    listed.click("Select all")
    listed.sees(f"{COUNT} users selected")
    for user in users[:2]:
        client.patch(user_url(user), json={"locale": "de"})
    client.delete(user_url(users[2]))
    listed.click("Suspend")
    listed.sees(f"Dry run: {COUNT - 3} users can be suspended, 3 can not.")
    assert "2: " in listed.text("dialog li")
    assert "version_mismatch" in listed.text("dialog li")
    listed.click("Save the failures as a file")
    listed.click(f"Suspend {COUNT - 3} users")
    listed.sees(f"{COUNT - 3} users suspended, 0 failed.")

    file = wait_for_any(tmp_path / "saved")
    failures = list(csv.DictReader(StringIO(file.read_text())))
    assert [failure["id"] for failure in failures] == [user["id"] for user in users[:3]]
    assert {failure["code"] for failure in failures} == {"version_mismatch", "user_not_found"}
    assert [user["status"] for user in stored()][:3] == ["active", "active", "deleted"]


def wait_for_any(folder: Path) -> Path:
    wait_until(lambda: any(folder.glob("failures-*.csv")), "a file of failures")
    return next(folder.glob("failures-*.csv"))


def test_a_connection_that_is_lost_is_taken_up_where_it_was(listed: Visitor, stored: Stored) -> None:
    listed.click("Select all")
    listed.click("Suspend")
    listed.sees("can be suspended")
    listed.set_online(False)
    listed.click(f"Suspend {COUNT} users")
    listed.sees("The service does not respond.")
    listed.set_online(True)
    listed.click("Try again")
    listed.sees(f"{COUNT} users suspended, 0 failed.")

    assert {user["version"] for user in stored()} == {2}


def test_an_answer_that_is_lost_is_not_a_second_change(listed: Visitor, stored: Stored) -> None:
    listed.click("Select all")
    listed.click("Suspend")
    listed.sees("can be suspended")
    listed.page.value(
        """(() => {
          const real = window.fetch;
          window.fetch = async (...request) => {
            const response = await real(...request);
            window.fetch = real;
            throw new TypeError("lost");
          };
        })()"""
    )
    listed.click(f"Suspend {COUNT} users")
    listed.sees(f"{COUNT} users suspended, 0 failed.")

    assert {user["version"] for user in stored()} == {2}


def test_another_filter_forgets_the_selection_and_another_order_does_not(listed: Visitor) -> None:
    listed.tick("Select the users on this page")
    listed.sees(f"{COUNT} users selected")
    listed.choose("Order", "-created_at")
    listed.page.wait_for("document.querySelectorAll('tbody input:checked').length === 12")
    listed.choose("Status", "active")
    listed.sees_no("users selected")


def test_without_the_scope_there_is_no_such_action(
    admin_service: Any, people: Any, visitor: Visitor, users: list[dict[str, Any]], plan: str
) -> None:
    visitor.open(f"{admin_service.url}/admin#/users?metadata.plan={plan}")
    visitor.sign_in(people.token(scope="users:read users:delete"))
    visitor.click("Select all")
    visitor.sees("users selected")
    visitor.page.wait_for("document.querySelectorAll('.bar button').length > 0")

    assert visitor.texts("[aria-label='Selected users'] button") == ["Delete", "Clear the selection"]


def test_selecting_a_user_with_an_odd_name_works(client: httpx.Client, admin: Visitor) -> None:
    name = '"><script>x</script>' + uuid4().hex
    user = create_user(client, display_name=name, email=unique_email())
    admin.page.value("location.hash = '#/users?sort=-created_at'")
    admin.page.wait_for(f"document.querySelector('tr[data-id=\"{user['id']}\"]') !== null")
    tick_row(admin, user)
    admin.sees("1 user selected")

    label = admin.page.value(f"document.querySelector('tr[data-id=\"{user['id']}\"] input').ariaLabel")
    assert label == f"Select {name}"


def test_escape_stops_a_run_and_shows_what_came_of_it(listed: Visitor, stored: Stored) -> None:
    listed.click("Select all")
    listed.click("Suspend")
    listed.sees("can be suspended")
    # The answer is held back until Escape was pressed.
    listed.page.value(
        """(() => {
          const real = window.fetch;
          window.fetch = async (...request) => {
            const response = await real(...request);
            await new Promise((resolve) => { window.release = resolve; });
            return response;
          };
        })()"""
    )
    listed.click(f"Suspend {COUNT} users")
    listed.page.wait_for("window.release !== undefined")
    listed.press("Escape")
    listed.sees("Changing users:")
    listed.page.value("window.release()")
    listed.sees(f"{COUNT} users suspended, 0 failed.")

    assert {user["status"] for user in stored()} == {"suspended"}


def test_going_back_closes_a_dialog(listed: Visitor) -> None:
    listed.click("Select all")
    listed.click("Suspend")
    listed.sees("can be suspended")
    listed.page.value("location.hash = '#/import'")
    listed.sees("Latest imports")

    listed.page.wait_for("document.querySelector('dialog') === null")
