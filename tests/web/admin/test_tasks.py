"""Ten tasks of a support person, each in at most four actions: a click, a text that is entered, a choice, or a key."""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, unique_email, user_url
from support.browser import needs_chromium
from support.visitor import Visitor, wait_for_file

pytestmark = needs_chromium
MOST_ACTIONS = 4


@pytest.fixture
def person(admin: Visitor) -> Iterator[Visitor]:
    """A support person who has signed in, and has done the task in few actions."""
    assert admin.actions == 0
    yield admin
    assert admin.actions <= MOST_ACTIONS
    assert admin.faults() == []


@pytest.fixture
def user(client: httpx.Client) -> dict[str, Any]:
    return create_user(client, given_name="Ada", phone="+442071838750")


@pytest.fixture
def read(client: httpx.Client, user: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    def read() -> dict[str, Any]:
        stored: dict[str, Any] = client.get(user_url(user), params={"include": "deleted"}).json()
        return stored

    return read


Read = Callable[[], dict[str, Any]]


def test_1_look_a_user_up_by_e_mail(person: Visitor, user: dict[str, Any]) -> None:
    person.write(user["email"])
    person.press("Enter")

    person.page.wait_for("document.querySelector('[name=phone]')?.value === '+442071838750'")


def test_2_suspend_a_user(person: Visitor, user: dict[str, Any], read: Read) -> None:
    person.write(user["email"])
    person.press("Enter")
    person.click("Suspend")
    person.sees("Suspend Ada?")
    person.press("Enter")

    person.sees("The user is suspended.")
    assert read()["status"] == "suspended"


def test_3_see_who_changed_what(person: Visitor, client: httpx.Client, user: dict[str, Any]) -> None:
    client.patch(user_url(user), json={"phone": None, "locale": "de"})
    person.write(user["email"])
    person.press("Enter")

    person.page.wait_for("document.querySelectorAll('.timeline li').length === 2")
    assert "Phone" in person.text(".timeline li")
    assert client.get(user_url(user, "/audit")).json()["items"][1]["actor"] in person.text(".timeline")


def test_4_correct_a_phone_number(person: Visitor, user: dict[str, Any], read: Read) -> None:
    person.write(user["email"])
    person.press("Enter")
    person.enter("Phone", "+49 30 1234567")
    person.press("Enter")

    person.sees("The changes are saved.")
    assert read()["phone"] == "+49301234567"


def test_5_restore_a_deleted_user(person: Visitor, client: httpx.Client, user: dict[str, Any], read: Read) -> None:
    client.delete(user_url(user))
    person.write(user["email"])
    person.press("Enter")
    person.click("Restore")

    person.sees("The user is restored.")
    assert read()["status"] == "active"


def test_6_give_a_person_what_is_stored_about_them(person: Visitor, user: dict[str, Any], tmp_path: Path) -> None:
    person.save_files_to(tmp_path / "saved")
    person.write(user["email"])
    person.press("Enter")
    person.click("Export the person")

    content = wait_for_file(tmp_path / "saved", f"user-{user['id']}.json")
    assert json.loads(content)["user"]["email"] == user["email"]


def test_7_erase_a_person(person: Visitor, user: dict[str, Any], read: Read) -> None:
    person.write(user["email"])
    person.press("Enter")
    person.enter("To allow it, type the e-mail address", user["email"])
    person.click("Erase the person")

    person.sees("The person is erased.")
    assert read()["email"] is None


def test_8_suspend_everyone_of_a_company(person: Visitor, client: httpx.Client) -> None:
    company = f"company-{uuid4().hex[:8]}"
    users = [create_user(client, metadata={"company": company}) for _ in range(3)]
    person.page.value(f"location.hash = '#/users?metadata.company={company}'")
    person.sees("3 users")
    person.click("Select all")
    person.click("Suspend")
    person.click("Suspend 3 users")

    person.sees("3 users suspended, 0 failed.")
    assert {client.get(user_url(user)).json()["status"] for user in users} == {"suspended"}


def test_9_export_the_suspended_users(person: Visitor, client: httpx.Client, tmp_path: Path) -> None:
    user = create_user(client)
    client.post(user_url(user, "/suspend"))
    person.save_files_to(tmp_path / "saved")
    person.choose("Status", "suspended")
    person.click("Export as CSV")
    content = wait_for_file(tmp_path / "saved", f"users-{datetime.now(UTC).date()}.csv").decode()

    found = list(csv.DictReader(StringIO(content)))
    assert {row["status"] for row in found} == {"suspended"}
    assert user["id"] in {row["id"] for row in found}


def test_10_import_a_file(person: Visitor, client: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    emails = [unique_email() for _ in range(3)]
    path.write_text("\n".join(["email", *emails]))
    person.click("Import")
    person.give_files("Drop a file of CSV or NDJSON here", path)
    person.click("Dry run")
    person.sees("Dry run: what would happen")
    person.click("Import", "form button")

    person.sees("The file is imported")
    found = client.post(f"{USERS}/batch/find", json={"emails": emails}).json()["found"]
    assert len(found) == 3
