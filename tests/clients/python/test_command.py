"""The command `users` on single users: in a pipe, on a terminal, and with its profiles."""

import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support.clients import run_users, run_users_on_terminal
from support.ports import free_port
from support.process import ServiceProcess
from support.settings import API_KEY
from user_service_client.command.output import cell_width, shorten, to_cell

Run = Callable[..., subprocess.CompletedProcess[str]]
RunOnTerminal = Callable[..., tuple[int, str]]


@pytest.fixture
def environ(service: ServiceProcess) -> dict[str, str]:
    return {"USER_SERVICE_URL": service.url, "USER_SERVICE_API_KEY": API_KEY}


@pytest.fixture
def run(environ: dict[str, str], tmp_path: Path) -> Run:
    return lambda *arguments, **options: run_users(tmp_path, *arguments, **(environ | options))


@pytest.fixture
def run_on_terminal(environ: dict[str, str], tmp_path: Path) -> RunOnTerminal:
    return lambda *arguments, **options: run_users_on_terminal(tmp_path, *arguments, **(environ | options))


def documents(result: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_user_is_created_found_changed_and_shown_in_pipes(run: Run, address: Callable[[], str]) -> None:
    email, external_id = address(), uuid4().hex

    (made,) = documents(run("create", f"email={email}", f"external_id={external_id}", "metadata.plan=pro"))
    (found,) = documents(run("find", email))
    (changed,) = documents(run("set", email, "given_name=Ada", "external_id=", 'preferences:={"theme": "dark"}'))
    (shown,) = documents(run("show", made["id"]))
    trail = documents(run("audit", email))

    assert made == found
    assert (made["external_id"], made["metadata"]) == (external_id, {"plan": "pro"})
    assert (changed["given_name"], changed["external_id"], changed["preferences"]) == ("Ada", None, {"theme": "dark"})
    assert shown == changed
    assert shown["created_at"].endswith("Z")
    assert [entry["type"] for entry in trail] == ["created", "updated"]


def test_a_user_is_read_from_standard_input(run: Run, address: Callable[[], str]) -> None:
    email = address()

    (made,) = documents(run("create", "-", given=json.dumps({"email": email, "aliases": [f"x{email}"]})))
    (changed,) = documents(run("set", f"x{email}", "-", given='{"aliases": []}'))

    assert (made["aliases"], changed["aliases"]) == ([f"x{email}"], [])


def test_a_user_goes_through_its_states(run: Run, address: Callable[[], str]) -> None:
    (made,) = documents(run("create", f"email={address()}"))

    (suspended,) = documents(run("suspend", made["email"]))
    (activated,) = documents(run("activate", made["id"]))
    deleted = run("delete", made["email"])
    absent = run("show", made["email"])
    (restored,) = documents(run("restore", made["id"]))

    assert [user["status"] for user in (suspended, activated, restored)] == ["suspended", "active", "active"]
    assert (deleted.returncode, deleted.stdout, deleted.stderr) == (0, "", f"Deleted: {made['id']}\n")
    assert (absent.returncode, absent.stdout) == (3, "")
    assert absent.stderr.startswith("No user has this address")


def test_an_erasure_asks_on_a_terminal_and_needs_yes_elsewhere(
    run: Run, run_on_terminal: RunOnTerminal, address: Callable[[], str]
) -> None:
    (made,) = documents(run("create", f"email={address()}"))

    unasked = run("erase", made["id"])
    status, said = run_on_terminal("erase", made["id"], given="no\n")
    kept = documents(run("show", made["id"]))
    accepted, _ = run_on_terminal("erase", made["id"], given="yes\n")
    gone = run("show", made["id"], "--deleted")

    assert (unasked.returncode, kept[0]["email"]) == (2, made["email"])
    assert "Add --yes" in unasked.stderr
    assert (status, "Nothing was changed." in said) == (1, True)
    assert accepted == 0
    assert documents(gone)[0]["email"] is None


def test_a_purge_is_done_with_yes(run: Run, address: Callable[[], str]) -> None:
    (made,) = documents(run("create", f"email={address()}"))

    purged = run("delete", "--purge", made["id"], "--yes")

    assert (purged.returncode, purged.stderr) == (0, f"Purged: {made['id']}\n")
    assert [entry["type"] for entry in documents(run("audit", made["id"]))] == ["created", "purged"]


def test_the_audit_of_all_users_has_the_reasons(run: Run, address: Callable[[], str]) -> None:
    (made,) = documents(run("create", f"email={address()}"))
    documents(run("suspend", made["id"], "--reason", "ticket 4711"))

    records = documents(run("audit", made["email"], "--type", "status_changed", "--after", "2020-01-01"))

    assert [(record["user_id"], record["reason"]) for record in records] == [(made["id"], "ticket 4711")]


def test_the_export_of_a_person_is_in_a_file_of_ones_own(run: Run, address: Callable[[], str], tmp_path: Path) -> None:
    (made,) = documents(run("create", f"email={address()}"))

    written = run("export-person", made["id"], "person.json")
    again = run("export-person", made["id"], "person.json")
    printed = run("export-person", made["email"])

    file = tmp_path / "person.json"
    assert (written.returncode, again.returncode) == (0, 2)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["user"] == json.loads(printed.stdout)["user"] == made


def test_users_are_found_by_filters(run: Run) -> None:
    domain, key = f"{uuid4().hex}.example.org", f"k{uuid4().hex}"
    for number in range(3):
        documents(run("create", f"email=u{number}@{domain}", f"metadata.{key}={number}"))

    newest = documents(run("find", "--domain", domain, "--sort", "newest", "--limit", "2"))
    second = documents(run("find", "--metadata", f"{key}=1", "--status", "active", "--created-after", "2020-01-01"))
    nothing = run("find", "--domain", domain, "--status", "suspended")

    assert [user["email"] for user in newest] == [f"u2@{domain}", f"u1@{domain}"]
    assert [user["email"] for user in second] == [f"u1@{domain}"]
    assert (nothing.returncode, nothing.stdout) == (1, "")


def test_a_terminal_gets_tables(run_on_terminal: RunOnTerminal, run: Run) -> None:
    domain = f"{uuid4().hex}.example.org"
    documents(run("create", f"email=u@{domain}", "given_name=Ada", "family_name=山田"))

    status, table = run_on_terminal("find", "--domain", domain)
    _, record = run_on_terminal("show", f"u@{domain}")
    as_json = run_on_terminal("show", f"u@{domain}", "--output", "json")[1]

    head, row = table.splitlines()
    assert status == 0
    assert head.split()[:3] == ["ID", "EMAIL", "STATUS"]
    assert row.split()[1] == f"u@{domain}"
    assert max(map(cell_width, table.splitlines())) <= 100
    assert "family_name     山田" in record
    assert json.loads(as_json)["given_name"] == "Ada"


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed() -> None:
    assert to_cell("\x1b[2J\x07a\nb\u202e") == "\\x1b[2J\\x07a\\x0ab\\x202e"
    assert to_cell({"a": "\x9b31m"}) == '{"a": "\\x9b31m"}'
    assert shorten("山田山田", 5) == "山田…"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "given_name=Ada"], "email=... is required"),
        (["create", "email"], "expected field=value"),
        (["create", "email=a@example.org", "shoe_size=5"], "shoe_size: no field of a user"),
        (["create", "email=a@example.org", "given_name.x=5"], "no field of a user"),
        (["create", "email=a@example.org", "metadata.=5"], "no field of a user"),
        (["create", "email=a@example.org", "preferences:={"], "its value is not JSON"),
        (["create", "email=a@example.org", "email_verified=perhaps"], "expected true or false"),
        (["find", "--created-after", "yesterday"], "expected a time"),
        (["find", "--metadata", "plan"], "expected key=value"),
        (["find", "--limit", "-1"], "expected a number from 0"),
        (["find", "--profile", "absent"], "there is no profile absent"),
        (["find", "--url", "ftp://example.org"], "not an address"),
        (["profile", "add", "x"], "give the address"),
        (["profile", "remove"], "name a profile"),
        (["profile", "remove", "absent"], "there is no profile absent"),
        (["changes", "--cursor-file", "/nowhere/cursor"], "can't be read or written"),
    ],
)
def test_wrong_usage_is_named(run: Run, arguments: list[str], said: str) -> None:
    result = run(*arguments)

    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_refusal_has_the_code_and_each_fault(run: Run, address: Callable[[], str]) -> None:
    result = run("create", f"email={address()}", "locale=certainly not")

    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("422 validation_failed: ")
    assert "\n- /locale " in result.stderr
    assert "certainly" not in result.stderr


def test_a_service_that_does_not_respond_is_named(run: Run) -> None:
    result = run("find", "--url", f"http://127.0.0.1:{free_port()}", "--wait", "0")

    assert result.returncode == 3
    assert "(ConnectError). Check that the service runs there" in result.stderr


def test_a_reader_that_has_enough_is_no_error(environ: dict[str, str], run: Run, tmp_path: Path) -> None:
    domain = f"{uuid4().hex}.example.org"
    (tmp_path / "users.ndjson").write_text("".join(f'{{"email": "u{n}@{domain}"}}\n' for n in range(900)))
    assert run("import", "users.ndjson").returncode == 0

    from support.clients import sys, users_environ

    command = f"{sys.executable} -m user_service_client.command.main find --domain {domain} --limit 0 | head -n 1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=users_environ(tmp_path, environ),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


def test_changes_are_printed_and_the_cursor_is_kept(run: Run, address: Callable[[], str]) -> None:
    documents(run("changes", "--cursor-file", "cursor"))
    (made,) = documents(run("create", f"email={address()}"))

    changes = documents(run("changes", "--cursor-file", "cursor"))
    after = documents(run("changes", "--cursor-file", "cursor"))

    assert [(change["user_id"], change["type"]) for change in changes] == [(made["id"], "created")]
    assert after == []


def add_profile(folder: Path, url: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run_users(folder, "profile", "add", "staging", url, *arguments, given=f"{API_KEY}\n", **environ)


def test_a_profile_has_its_key_in_a_file_that_others_can_not_read(service: ServiceProcess, tmp_path: Path) -> None:
    file = tmp_path / ".config/user-service/profiles.json"

    added = add_profile(tmp_path, service.url)
    used = run_users(tmp_path, "find", "--profile", "staging", "--limit", "1")
    by_environ = run_users(tmp_path, "find", "--limit", "1", USERS_PROFILE="staging")
    listed = run_users(tmp_path, "profile", "list")
    elsewhere = run_users(tmp_path, "find", "--profile", "staging", "--url", "http://127.0.0.1:1")

    assert (added.returncode, added.stdout, added.stderr) == (0, "", f"The key is in {file}.\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert used.returncode == by_environ.returncode
    assert used.stderr + by_environ.stderr in {"", "The first 1; --limit 0 shows all.\n" * 2}
    assert (json.loads(listed.stdout), API_KEY in listed.stdout) == ({"name": "staging", "url": service.url}, False)
    assert (elsewhere.returncode, "its key is not sent elsewhere" in elsewhere.stderr) == (2, True)

    file.chmod(0o640)
    refused = run_users(tmp_path, "find", "--profile", "staging")
    assert (refused.returncode, f"run: chmod 600 {file}" in refused.stderr) == (2, True)


def test_a_profile_has_its_key_in_the_keyring_where_there_is_one(service: ServiceProcess, tmp_path: Path) -> None:
    keyring = {
        "PYTHON_KEYRING_BACKEND": "support.file_keyring.FileKeyring",
        "KEYRING_FILE": str(tmp_path / "keyring.json"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    added = add_profile(tmp_path, service.url, **keyring)
    used = run_users(tmp_path, "changes", "--profile", "staging", **keyring)
    file = tmp_path / ".config/user-service/profiles.json"
    was_in_file = API_KEY in file.read_text()
    in_file = add_profile(tmp_path, service.url, "--file", **keyring)
    removed = run_users(tmp_path, "profile", "remove", "staging", **keyring)

    assert (added.returncode, added.stderr) == (0, "The key is in the keyring.\n")
    assert (used.returncode, was_in_file) == (0, False)
    assert in_file.stderr == f"The key is in {file}.\n"
    assert removed.returncode == 0
    assert API_KEY not in (tmp_path / "keyring.json").read_text() + file.read_text()


def test_a_damaged_file_of_profiles_is_named(tmp_path: Path) -> None:
    file = tmp_path / ".config/user-service/profiles.json"
    file.parent.mkdir(parents=True)
    for text in ("{", "[1]", '{"a": 5}'):
        file.write_text(text)
        file.chmod(0o600)
        result = run_users(tmp_path, "find", "--profile", "a")
        assert (result.returncode, "not a file of profiles" in result.stderr) == (2, True), result.stderr


def test_the_service_of_this_machine_needs_no_key_to_be_given(service: ServiceProcess, tmp_path: Path) -> None:
    data = tmp_path / ".local/share/user-service"
    data.mkdir(parents=True)
    (data / "internal-api-key").write_text(f"{API_KEY}\n")
    port = service.url.rpartition(":")[2]

    found = run_users(tmp_path, "changes", PORT=port)
    elsewhere = run_users(tmp_path, "changes", "--url", f"http://127.0.0.2:{port}")

    assert found.returncode == 0, found.stderr
    assert (elsewhere.returncode, "No key for http://127.0.0.2" in elsewhere.stderr) == (2, True)


def test_commands_and_options_are_completed_in_bash(run: Run) -> None:
    script = run("completion", "bash").stdout
    asked = 'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _users; echo "${COMPREPLY[*]}"; }\n'
    asked += 'complete_words users ex\ncomplete_words users import --d\ncomplete_words users completion ""\n'

    result = subprocess.run(["bash", "-c", script + asked], capture_output=True, text=True, check=True)

    lines = result.stdout.splitlines()
    assert lines[0] == "export-person export"
    assert lines[1] == "--dry-run"
    assert lines[2].split()[-3:] == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command(run: Run, shell: str) -> None:
    script = run("completion", shell).stdout

    assert all(name in script for name in ("find", "export-person", "erase", "on-conflict", "cursor-file"))
