"""The list of users on the admin page: filters, pages, columns, exports."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, user_url
from support.browser import needs_chromium
from support.visitor import Visitor, wait_for_file

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def plan() -> str:
    return f"plan-{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def users(admin_service: Any, plan: str) -> Iterator[list[dict[str, Any]]]:
    """Sixty users, of which ten are suspended and five deleted."""
    with admin_service.client() as client:
        users = [create_user(client, metadata={"plan": plan}, family_name=f"Number {n}") for n in range(60)]
        for user in users[:10]:
            client.post(user_url(user, "/suspend"))
        for user in users[10:15]:
            client.delete(user_url(user))
        yield users


@pytest.fixture
def listed(admin: Visitor, users: list[dict[str, Any]], plan: str) -> Visitor:
    """At the list of these users."""
    admin.page.value(f"location.hash = '#/users?metadata.plan={plan}'")
    admin.sees("55 users")
    admin.page.wait_for("document.querySelectorAll('tbody tr').length === 50")
    admin.actions = 0
    return admin


def rows(visitor: Visitor) -> list[str]:
    found: list[str] = visitor.page.value("[...document.querySelectorAll('tbody tr')].map((row) => row.dataset.id)")
    return found


def test_pages_lead_forth_and_back_and_each_has_an_address(listed: Visitor, users: list[dict[str, Any]]) -> None:
    first = rows(listed)
    listed.click("Next page")
    listed.page.wait_for("document.querySelectorAll('tbody tr').length === 5")
    second, address = rows(listed), listed.address
    listed.click("Previous page")
    listed.page.wait_for("document.querySelectorAll('tbody tr').length === 50")

    assert rows(listed) == first
    assert first + second == [user["id"] for user in users[:10] + users[15:]]
    listed.page.value(f"location.href = {address!r}")
    listed.page.wait_for("document.querySelectorAll('tbody tr').length === 5")
    assert rows(listed) == second
    listed.page.value("history.back()")
    listed.page.wait_for("document.querySelectorAll('tbody tr').length === 50")
    assert listed.faults() == []


def test_filters_narrow_the_list_and_stand_in_the_address(listed: Visitor, users: list[dict[str, Any]]) -> None:
    listed.choose("Status", "suspended")
    listed.sees("10 users")
    assert "status=suspended" in listed.address
    assert listed.page.value("document.activeElement.name") == "status"
    listed.choose("Status", "deleted")
    listed.sees("5 users")
    listed.choose("Status", "")
    listed.sees("55 users")
    listed.tick("with deleted")
    listed.sees("60 users")
    assert "include=deleted" in listed.address
    listed.choose("Order", "-created_at")
    listed.page.wait_for(f"document.querySelector('tbody tr').dataset.id === '{users[-1]['id']}'")


def test_days_and_page_sizes_are_filters_too(listed: Visitor) -> None:
    listed.choose("Users on a page", "25")
    listed.page.wait_for("document.querySelectorAll('tbody tr').length === 25")
    listed.choose("Created before", datetime.now(UTC).date().isoformat())
    listed.sees("0 users")
    listed.sees("No user matches. Search for another text, or take a filter away.")
    listed.choose("Created before", "")
    listed.choose("Created on or after", datetime.now(UTC).date().isoformat())
    listed.sees("55 users")


def test_columns_are_chosen(listed: Visitor) -> None:
    listed.click("Columns")
    listed.tick("Metadata")
    listed.page.wait_for("[...document.querySelectorAll('thead th')].some((th) => th.textContent === 'Metadata')")
    listed.tick("E-mail")
    listed.page.wait_for("![...document.querySelectorAll('thead th')].some((th) => th.textContent === 'E-mail')")

    assert listed.texts("thead th")[1:] == ["Name", "Status", "Metadata", "Created"]
    assert '{"plan":"plan-' in listed.text("tbody")
    assert "columns=name%2Cstatus%2Cmetadata%2Ccreated_at" in listed.address


@pytest.mark.parametrize("kind", ["CSV", "NDJSON"])
def test_what_is_filtered_is_exported(listed: Visitor, users: list[dict[str, Any]], tmp_path: Path, kind: str) -> None:
    listed.save_files_to(tmp_path / "saved")
    listed.choose("Status", "suspended")
    listed.sees("10 users")
    listed.click(f"Export as {kind}")
    listed.sees("is saved")
    name = f"users-{datetime.now(UTC).date()}.{kind.lower()}"
    content = wait_for_file(tmp_path / "saved", name).decode()

    if kind == "CSV":
        found = list(csv.DictReader(StringIO(content)))
    else:
        found = [json.loads(line) for line in content.splitlines()]
    assert [row["id"] for row in found] == [user["id"] for user in users[:10]]
    assert listed.actions == 2


def test_an_export_that_breaks_saves_nothing(listed: Visitor, tmp_path: Path) -> None:
    listed.save_files_to(tmp_path / "saved")
    listed.set_online(False)
    listed.click("Export as CSV")
    listed.sees("The service does not respond.")
    listed.set_online(True)
    assert list((tmp_path / "saved").iterdir()) == []
    listed.click("Try again")
    listed.sees("is saved")


def test_a_list_without_users_says_so(admin: Visitor, client: httpx.Client) -> None:
    admin.page.value("location.hash = '#/users?metadata.plan=nobody-has-this'")

    admin.sees("0 users")
    admin.sees("No user matches.")
    assert client.get(USERS, params={"metadata.plan": "nobody-has-this"}).json()["items"] == []
