"""The audit over all users, reasons, and the state of the service, on the admin page."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, unique_email, user_url
from support.browser import needs_chromium
from support.issuer import Issuer
from support.process import ServiceProcess
from support.visitor import Visitor

pytestmark = needs_chromium
EVERYTHING = "users:read users:write users:delete users:purge users:erase audit:read"


@pytest.fixture
def token(people: Issuer) -> str:
    """A token of a person of this test's own."""
    return people.token(sub=f"person-{uuid4().hex}", scope=EVERYTHING)


@pytest.fixture
def person(admin_service: ServiceProcess, visitor: Visitor, token: str) -> Visitor:
    visitor.open(f"{admin_service.url}/admin")
    visitor.sign_in(token)
    return visitor


@pytest.fixture
def own(admin_service: ServiceProcess, token: str) -> httpx.Client:
    """A client that acts as this person."""
    return httpx.Client(base_url=admin_service.url, headers={"Authorization": f"Bearer {token}"})


def entries(visitor: Visitor) -> list[str]:
    return visitor.texts("tbody tr")


def test_what_one_actor_did_is_listed_newest_first_and_filtered(person: Visitor, own: httpx.Client) -> None:
    with own:
        actor = own.get("/api/v1/whoami").json()["actor"]
        user = create_user(own)
        own.patch(user_url(user), json={"locale": "de"}, headers={"X-Change-Reason": "ticket 4711"})
        own.delete(user_url(user))
    person.click("Audit")
    person.enter("Actor", actor)
    person.press("Enter")
    person.page.wait_for("document.querySelectorAll('tbody tr').length === 3")
    shown = entries(person)

    assert [line.split("\t")[1] for line in shown] == ["Deleted", "Changed", "Created"]
    assert "Locale" in shown[1]
    assert "ticket 4711" in shown[1]
    person.choose("What was done", "deleted")
    person.page.wait_for("document.querySelectorAll('tbody tr').length === 1")
    assert "type=deleted" in person.address
    person.click(user["id"])
    person.sees("Reason: ticket 4711")
    assert person.faults() == []


def test_the_audit_has_pages_and_a_day_without_changes_says_so(person: Visitor, own: httpx.Client) -> None:
    with own:
        actor = own.get("/api/v1/whoami").json()["actor"]
        items = [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(60)]
        assert own.post(f"{USERS}/batch/create", json={"items": items}).status_code == 200
    person.page.value(f"location.hash = '#/audit?actor={actor}'")
    person.page.wait_for("document.querySelectorAll('tbody tr').length === 50")
    person.click("Earlier")
    person.page.wait_for("document.querySelectorAll('tbody tr').length === 10")
    person.click("Newest")
    person.page.wait_for("document.querySelectorAll('tbody tr').length === 50")
    person.choose("Before", "2020-01-01")
    person.sees("Nothing is logged that these filters select.")


@pytest.mark.parametrize("reason", ["ticket 4711", "Anfrage 12 – erledigt", "טיקט 3"])
def test_a_reason_is_kept_with_a_change_and_shown(person: Visitor, own: httpx.Client, reason: str) -> None:
    with own:
        user = create_user(own)
        person.page.value(f"location.hash = '#/user/{user['id']}'")
        person.enter("Given name", "Ada")
        person.enter("Reason", reason)
        person.click("Save")
        person.sees(f"Reason: {reason}")
        person.click("Suspend")
        person.enter("Reason", f"{reason} 2")
        person.click("Suspend")
        person.sees(f"Reason: {reason} 2")
        person.enter("To allow it, type the e-mail address", user["email"])
        person.page.value("document.querySelector('section[aria-labelledby=danger] [name=reason]').focus()")
        person.write(f"{reason} 3")
        person.click("Erase the person")
        person.sees("The person is erased.")
        audit = own.get(user_url(user, "/audit")).json()["items"]

    assert [change["reason"] for change in audit][-1] == f"{reason} 3"
    assert person.faults() == []


def test_a_reason_is_kept_with_each_change_of_many(person: Visitor, own: httpx.Client) -> None:
    plan = f"plan-{uuid4().hex[:8]}"
    with own:
        users = [create_user(own, metadata={"plan": plan}) for _ in range(2)]
        person.page.value(f"location.hash = '#/users?metadata.plan={plan}'")
        person.sees("2 users")
        person.click("Select all")
        person.click("Suspend")
        person.enter("Reason", "campaign 9")
        person.click("Suspend 2 users")
        person.sees("2 users suspended, 0 failed.")
        reasons = [own.get(user_url(user, "/audit")).json()["items"][1]["reason"] for user in users]

    assert reasons == ["campaign 9"] * 2


def test_batches_keys_and_scim_are_shown_with_links_to_what_is_elsewhere(
    admin: Visitor, client: httpx.Client, admin_service: ServiceProcess
) -> None:
    client.post(f"{USERS}/batch/create", json={"items": []})
    actor = client.get("/api/v1/whoami").json()["actor"]
    admin.click("Service")
    admin.page.wait_for("document.querySelector('section[aria-labelledby=batches] tbody') !== null")

    batch = admin.text("section[aria-labelledby=batches] tbody tr")
    assert batch.split("\t")[:4] == ["create", "succeeded", "0 of 0", "0"]
    assert actor.removeprefix("api-key:") in admin.text("section[aria-labelledby=keys]")
    assert "users:erase" in admin.text("section[aria-labelledby=keys]")
    assert admin.text("#scim") == f"SCIM is on. The base URL for an identity provider is {admin_service.url}/scim/v2."
    links = admin.page.value("[...document.querySelectorAll('main a')].map((link) => link.getAttribute('href'))")
    assert links == ["status", "#/import"]
    assert admin.faults() == []


def test_views_that_the_scopes_do_not_allow_have_no_link_and_say_why(
    admin_service: ServiceProcess, people: Issuer, visitor: Visitor
) -> None:
    visitor.open(f"{admin_service.url}/admin#/audit")
    visitor.sign_in(people.token(scope="users:read"))
    visitor.sees("it lacks the scope audit:read")
    assert visitor.texts("nav a") == ["Users", "Import"]
    visitor.page.value("location.hash = '#/service'")
    visitor.sees("it lacks the scope cache:manage")

    requests: list[dict[str, Any]] = [e for e in visitor.page.events if e["method"] == "Network.responseReceived"]
    assert 403 not in {event["params"]["response"]["status"] for event in requests}


def test_a_reason_is_kept_with_an_import(admin: Visitor, client: httpx.Client, tmp_path: Path) -> None:
    email = unique_email()
    path = tmp_path / "people.csv"
    path.write_text(f"email\n{email}\n")
    admin.click("Import")
    admin.give_files("Drop a file of CSV or NDJSON here", path)
    admin.enter("Reason", "Übernahme 7")
    admin.click("Import", "form button")
    admin.sees("The file is imported")
    user = client.get(USERS, params={"email": email}).json()["items"][0]

    assert client.get(user_url(user, "/audit")).json()["items"][0]["reason"] == "Übernahme 7"
