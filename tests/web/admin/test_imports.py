"""Imports on the admin page."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, unique_email
from support.browser import needs_chromium
from support.issuer import Issuer
from support.process import ServiceProcess
from support.visitor import Visitor, wait_for_file

pytestmark = needs_chromium
FILE = "Drop a file of CSV or NDJSON here"


@pytest.fixture
def importing(admin: Visitor) -> Visitor:
    admin.click("Import")
    admin.sees("Latest imports")
    admin.actions = 0
    return admin


@pytest.fixture
def plan() -> str:
    return f"plan-{uuid4().hex[:8]}"


def imported(client: httpx.Client, plan: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(USERS, params={"metadata.plan": plan, "limit": 200}).json()["items"]
    return items


def write_csv(folder: Path, plan: str, *, count: int = 3, separator: str = ",", bad: int = 0) -> Path:
    rows = [separator.join(("E-Mail".replace("-", "").upper(), "given_name", "metadata.plan", "email_verified"))]
    rows += [separator.join((unique_email(), f'"Ada ""{n}"""', plan, "yes")) for n in range(count)]
    rows += [separator.join(("none", "Eve", plan, "no"))] * bad
    path = folder / "people.csv"
    path.write_text("\r\n".join(rows) + "\r\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_file_is_shown_tried_and_imported(
    client: httpx.Client, importing: Visitor, tmp_path: Path, plan: str, separator: str
) -> None:
    importing.give_files(FILE, write_csv(tmp_path, plan, separator=separator))
    importing.sees("The first records as they are understood")
    shown = importing.text("section[aria-labelledby=first]")
    assert 'Ada "0"' in shown
    assert plan in shown
    assert importing.texts("section[aria-labelledby=first] th") == [
        "E-mail",
        "Given name",
        "metadata.plan",
        "E-mail is verified",
    ]
    importing.click("Dry run")
    importing.sees("Dry run: what would happen")
    importing.sees("3 records: 3 created, 0 changed, 0 left as they are, 0 failed.")
    assert imported(client, plan) == []
    importing.click("Import", "form button")
    importing.sees("The file is imported")

    users = imported(client, plan)
    assert [user["given_name"] for user in users] == ['Ada "0"', 'Ada "1"', 'Ada "2"']
    assert {user["email_verified"] for user in users} == {True}
    assert importing.faults() == []


def test_ndjson_is_imported_and_existing_users_are_changed(
    client: httpx.Client, importing: Visitor, tmp_path: Path, plan: str
) -> None:
    user = create_user(client, external_id=f"hr-{uuid4().hex}")
    path = tmp_path / "people.jsonl"
    record = {
        "external_id": user["external_id"],
        "email": user["email"],
        "family_name": "King",
        "metadata": {"plan": plan},
    }
    path.write_text(json.dumps(record) + "\n")
    importing.give_files(FILE, path)
    importing.choose("If a user exists already", "update")
    importing.click("Import", "form button")
    importing.sees("The file is imported")

    assert [each["family_name"] for each in imported(client, plan)] == ["King"]


def test_failures_are_shown_and_saved_as_a_file(
    client: httpx.Client, importing: Visitor, tmp_path: Path, plan: str
) -> None:
    importing.save_files_to(tmp_path / "saved")
    importing.give_files(FILE, write_csv(tmp_path, plan, bad=25))
    importing.click("Import", "form button")
    importing.sees("The first 20 of 25 failures")
    assert "not an e-mail address" in importing.text("section[aria-labelledby=result]")
    importing.click("Save the failures as a file")
    found = client.get(f"{USERS}/imports").json()["items"][0]
    lines = wait_for_file(tmp_path / "saved", f"import-{found['id']}-failures.ndjson").splitlines()

    assert [json.loads(line)["record"] for line in lines] == list(range(4, 29))


def test_a_file_that_is_refused_says_what_to_mend(importing: Visitor, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("email,shoe_size\nada@example.org,37\n")
    importing.give_files(FILE, path)
    importing.sees("No field is called: shoe_size.")
    importing.click("Dry run")
    importing.sees("column 2 ('shoe_size') does not name a field")
    importing.tick("pass over unknown columns")
    importing.click("Dry run")
    importing.sees("Dry run: what would happen")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.csv", b"", "The file is empty."),
        ("latin.csv", "email,given_name\nada@example.org,Zo\u00eb\n".encode("latin-1"), "Some bytes are not UTF-8"),
        ("array.json", b'[{"email": "ada@example.org"}]', "Record 1 is not a JSON object."),
        ("open.csv", b'email,given_name\nada@example.org,"never closed\n', "never closed"),
        ("<script>.csv", b"email\n<img src=x onerror=alert(1)>\n", "<img src=x onerror=alert(1)>"),
        ("zip.csv", b"PK\x03\x04" + bytes(range(256)) * 20, "Some bytes are not UTF-8"),
        ("proto.ndjson", b'{"__proto__": 1, "constructor": 2, "email": "a@example.org"}\n', "constructor"),
    ],
)
def test_an_odd_file_is_shown_without_harm(
    importing: Visitor, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    importing.give_files(FILE, path)

    importing.sees(sentence)
    importing.click("Dry run")
    importing.page.wait_for("document.querySelector('#result, [role=alert]') !== null")
    assert importing.faults() == []


def test_a_lost_connection_is_taken_up_and_nothing_is_applied_twice(
    client: httpx.Client, importing: Visitor, tmp_path: Path, plan: str
) -> None:
    importing.give_files(FILE, write_csv(tmp_path, plan, count=40))
    importing.sees("The first records")
    importing.set_online(False)
    importing.click("Import", "form button")
    importing.sees("Going on sends the file again")
    importing.set_online(True)
    importing.click("Go on")
    importing.sees("The file is imported")

    assert len(imported(client, plan)) == 40


def test_a_large_file_is_refused_at_its_header(importing: Visitor, tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    path.write_text("email,shoe_size\n" + "ada@example.org,37\n" * 300_000)
    importing.give_files(FILE, path)
    importing.click("Dry run")
    importing.page.wait_for("document.querySelector('[role=alert]') !== null")

    importing.sees("Go on")
    assert importing.faults() == []


def test_imports_of_others_stand_in_the_list(client: httpx.Client, admin: Visitor, plan: str) -> None:
    record = json.dumps({"email": unique_email(), "metadata": {"plan": plan}}) + '\n{"email": "none"}\n'
    client.post(f"{USERS}/imports", content=record, headers={"Content-Type": "application/x-ndjson"})
    admin.click("Import")

    admin.sees("2 records: 1 created, 0 changed, 0 left as they are, 1 failed.")


def test_without_the_scope_there_is_no_import(admin_service: ServiceProcess, people: Issuer, visitor: Visitor) -> None:
    visitor.open(f"{admin_service.url}/admin#/import")
    visitor.sign_in(people.token(scope="users:read"))

    visitor.sees("it lacks the scope users:write")
    visitor.sees("Latest imports")
    assert not visitor.page.value("document.querySelector('input[type=file]') !== null")


def test_a_dropped_file_is_taken(client: httpx.Client, importing: Visitor, plan: str) -> None:
    text = json.dumps(f"email,metadata.plan\n{unique_email()},{plan}\n")
    importing.page.value(
        f"""(() => {{
          const data = new DataTransfer();
          data.items.add(new File([{text}], "dropped.csv", {{type: "text/csv"}}));
          const zone = document.querySelector(".drop");
          for (const kind of ["dragover", "drop"])
            zone.dispatchEvent(new DragEvent(kind, {{bubbles: true, cancelable: true, dataTransfer: data}}));
        }})()"""
    )
    importing.click("Import", "form button")
    importing.sees("The file is imported")

    assert len(imported(client, plan)) == 1
