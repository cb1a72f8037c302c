"""The admin page for those who use a keyboard, a screen reader, a small screen or dark colours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import create_user, unique_email, user_url
from support.axe import find_violations, load_axe, needs_npm
from support.browser import needs_chromium
from support.process import ServiceProcess
from support.settings import API_KEY
from support.visitor import Visitor

pytestmark = [needs_chromium, needs_npm]
RTL = "محمد بن موسى الخوارزمي"


@pytest.fixture(scope="session")
def axe() -> str:
    return load_axe()


@pytest.fixture
def user(client: httpx.Client) -> dict[str, Any]:
    user = create_user(client, display_name=RTL, metadata={"plan": uuid4().hex}, aliases=[unique_email()])
    client.post(user_url(user, "/suspend"))
    return user


def show_list(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    admin.page.value(f"location.hash = '#/users?metadata.plan={user['metadata']['plan']}'")
    admin.sees("1 user")
    admin.page.wait_for("document.querySelectorAll('tbody tr').length === 1")


def show_selection(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    show_list(admin, user, folder)
    admin.click("Select all")
    admin.click("Columns")
    admin.page.wait_for("document.querySelectorAll('.bar button').length > 2")


def show_dry_run(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    show_selection(admin, user, folder)
    admin.click("Restore")
    admin.sees("Dry run: 0 users can be restored, 1 can not.")


def show_metadata(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    show_selection(admin, user, folder)
    admin.click("Set metadata")
    admin.sees("Key, as plan")


def show_nothing(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    admin.enter("Find users by", "nobody has this name")
    admin.press("Enter")
    admin.sees("No user matches.")


def show_user(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    admin.page.value(f"location.hash = '#/user/{user['id']}'")
    admin.page.wait_for("document.querySelectorAll('.timeline li').length === 2")


def show_faults(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    show_user(admin, user, folder)
    admin.enter("Phone", "12")
    admin.press("Enter")
    admin.sees("Nothing is saved yet")


def show_conflict(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    show_user(admin, user, folder)
    admin.enter("Given name", "Ada")
    httpx.patch(admin.address.partition("/admin")[0] + user_url(user), json={"given_name": "Eve"}, headers=KEY)
    admin.click("Save")
    admin.sees("changed by both")


def show_question(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    show_user(admin, user, folder)
    admin.click("Delete")
    admin.sees("A deleted user can be restored.")


def show_import(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    path = folder / "people.csv"
    path.write_text(f"email,given_name\nnone,{RTL}\n{user['email']},x\n")
    admin.click("Import")
    admin.give_files("Drop a file of CSV or NDJSON here", path)
    admin.click("Dry run")
    admin.sees("Dry run: what would happen")
    admin.page.wait_for("document.querySelector('section[aria-labelledby=result] table') !== null")


def show_audit(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    admin.page.value(f"location.hash = '#/audit?user_id={user['id']}'")
    admin.page.wait_for("document.querySelectorAll('tbody tr').length === 2")


def show_service(admin: Visitor, user: dict[str, Any], folder: Path) -> None:
    admin.click("Service")
    admin.sees("Fingerprint")


KEY = {"X-API-Key": API_KEY}
STATES = {name.removeprefix("show_"): state for name, state in list(globals().items()) if name.startswith("show_")}
Show = Callable[[Visitor, dict[str, Any], Path], None]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("show", STATES.values(), ids=STATES)
def test_nothing_keeps_people_out(
    admin: Visitor, user: dict[str, Any], axe: str, tmp_path: Path, show: Show, scheme: str
) -> None:
    admin.page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    show(admin, user, tmp_path)

    assert find_violations(admin.page, axe) == []
    admin.set_width(375)
    assert find_violations(admin.page, axe) == []
    assert admin.page.value("document.documentElement.scrollWidth") <= 375


def test_signing_in_keeps_nobody_out(admin_service: ServiceProcess, visitor: Visitor, axe: str) -> None:
    visitor.open(f"{admin_service.url}/admin")
    visitor.sees("API key or token")
    assert find_violations(visitor.page, axe) == []
    visitor.enter("API key or token", "wrong")
    visitor.press("Enter")
    visitor.page.wait_for("document.querySelector('[role=alert]') !== null")
    assert find_violations(visitor.page, axe) == []


def test_axe_finds_what_is_wrong(admin: Visitor, axe: str) -> None:
    admin.page.wait_for("document.querySelector('main h1') !== null")
    admin.page.value("document.querySelector('main').append(document.createElement('button'))")

    assert any(found.startswith("button-name (critical)") for found in find_violations(admin.page, axe))


def test_a_user_is_found_changed_and_suspended_by_the_keyboard_alone(client: httpx.Client, admin: Visitor) -> None:
    user = create_user(client)
    admin.write(user["email"])
    admin.press("Enter")
    admin.sees("Who changed what")
    assert admin.page.value("document.activeElement.tagName") == "H1"
    tab_to(admin, "Given name")
    admin.write("Ada")
    admin.press("Enter")
    admin.sees("The changes are saved.")
    tab_to(admin, "Suspend")
    admin.press("Enter")
    admin.sees("Suspend Ada?")
    assert admin.focused == "Suspend"
    admin.press("Enter")
    admin.sees("The user is suspended.")

    stored = client.get(user_url(user)).json()
    assert (stored["given_name"], stored["status"]) == ("Ada", "suspended")


def test_a_dialog_keeps_the_focus_and_gives_it_back(client: httpx.Client, admin: Visitor) -> None:
    admin.page.value(f"location.hash = '#/user/{create_user(client)['id']}'")
    admin.sees("Who changed what")
    tab_to(admin, "Delete")
    admin.press("Enter")
    admin.sees("A deleted user can be restored.")
    seen = set()
    for _ in range(6):
        admin.press("Tab")
        seen.add(admin.page.value("document.activeElement.closest('dialog, body').tagName"))
    assert "DIALOG" in seen
    assert not admin.page.value("document.activeElement.closest('main') !== null")
    admin.press("Escape")
    admin.page.wait_for("document.querySelector('dialog') === null")
    assert admin.focused == "Delete"


def test_users_are_selected_and_suspended_by_the_keyboard_alone(
    client: httpx.Client, admin: Visitor, user: dict[str, Any], tmp_path: Path
) -> None:
    show_list(admin, user, tmp_path)
    tab_to(admin, f"Select {RTL}")
    admin.press("Space")
    admin.sees("1 user selected")
    admin.page.wait_for("document.querySelectorAll('.bar button').length > 2")
    tab_to(admin, "Activate")
    admin.press("Enter")
    admin.sees("Dry run: 1 user can be activated")
    assert admin.focused == "Activate 1 user"
    admin.press("Enter")
    admin.sees("1 user activated, 0 failed.")
    admin.press("Enter")

    assert client.get(user_url(user)).json()["status"] == "active"


def test_the_first_link_skips_to_the_content(admin: Visitor) -> None:
    admin.page.value("document.activeElement.blur(), document.body.focus()")
    admin.press("Tab")
    for _ in range(40):
        if admin.focused == "Skip to the content":
            break
        admin.press("Tab", shift=True)
    admin.press("Enter")

    admin.page.wait_for("document.activeElement.id === 'view'")
    assert admin.address.endswith(("#/users", "/admin"))


def tab_to(visitor: Visitor, name: str) -> None:
    """Presses Tab until what has this name has the focus."""
    seen = []
    for _ in range(120):
        visitor.press("Tab")
        focused = visitor.page.value("document.activeElement.ariaLabel") or visitor.focused
        if focused == name:
            return
        seen.append(focused)
    raise AssertionError(seen)


def test_the_first_view_is_small(admin_service: ServiceProcess, admin: Visitor) -> None:
    """Under 100 KB from the first byte to the list of users, without what it reads of the users."""
    admin.page.wait_for("document.querySelector('main table, main .muted') !== null")
    responses = {
        event["params"]["requestId"]: event["params"]["response"]["url"]
        for event in admin.page.events
        if event["method"] == "Network.responseReceived"
    }
    sizes = [
        event["params"]["encodedDataLength"]
        for event in admin.page.events
        if event["method"] == "Network.loadingFinished" and "/admin" in responses.get(event["params"]["requestId"], "")
    ]

    assert len(sizes) > 10
    assert 20_000 < sum(sizes) < 100_000
