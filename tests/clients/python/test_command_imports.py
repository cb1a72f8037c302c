"""`users import` against a running service: what it prints, its exit status, and what it resumes."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from support.api import USERS
from support.clients import run_users, run_users_on_terminal, users_environ
from support.http_server import serving_http
from support.live_server import LiveServer, live
from support.ports import free_port
from support.settings import API_KEY, make_settings
from support.waiting import PATIENCE_SECONDS, wait_until


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with live(make_settings(database_url, tmp_path)) as running:
        yield running


def server_url(server: LiveServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def import_file(folder: Path, server: LiveServer, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ["import", str(file), "--url", server_url(server), "--output", "table", *options]
    return run_users(folder, *arguments, USER_SERVICE_API_KEY=API_KEY)


def people(count: int) -> list[dict[str, Any]]:
    return [{"email": f"u{number}@example.org", "external_id": f"u-{number}"} for number in range(count)]


def write_ndjson(file: Path, users: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(user) + "\n" for user in users))
    return file


def exported(server: LiveServer) -> list[dict[str, Any]]:
    with server.client() as client:
        return [json.loads(line) for line in client.get(f"{USERS}/export").text.splitlines()]


def test_a_file_is_imported_once_however_often_the_command_runs(server: LiveServer, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "users.jsonl", people(2500))

    first, again = (import_file(tmp_path, server, file) for _ in range(2))

    assert (first.returncode, first.stdout) == (0, "2,500 created.\n"), first.stderr
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("2,500 created.\nThe import was done before, on 20")
    assert again.stdout.endswith("--again applies it anew.\n")
    assert [user["external_id"] for user in exported(server)] == [f"u-{number}" for number in range(2500)]


def test_failed_records_are_shown_and_the_others_imported(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    rows = [f"u{number}@example.org" for number in range(1200)]
    rows[6], rows[1100] = "nobody", "U9@EXAMPLE.org"
    file.write_text("email\n" + "\n".join(rows) + "\n")

    result = import_file(tmp_path, server, file)

    lines = result.stdout.splitlines()
    assert result.returncode == 1, result.stderr
    assert lines[0] == "1,198 created, 2 failed."
    assert [line.split()[:4] for line in lines[3:5]] == [
        ["7", "8", "validation_failed", "email"],
        ["1101", "1102", "email_taken", "email"],
    ]
    assert "nobody" not in result.stdout
    assert len(exported(server)) == 1198


def test_many_failures_are_shown_in_part_and_counted(server: LiveServer, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "users.ndjson", [{"email": "nobody"}] * 30)

    result = import_file(tmp_path, server, file)

    assert result.returncode == 1
    assert sum(" email " in line for line in result.stdout.splitlines()) == 20
    assert "in all: 30 x validation_failed" in result.stdout


@pytest.mark.parametrize(
    ("on_conflict", "status", "said"),
    [("fail", 1, "1 created, 3 failed."), ("skip", 0, "1 created, 3 skipped."), ("update", 0, "1 created, 3 updated.")],
)
def test_on_conflict_reaches_the_service(
    server: LiveServer, tmp_path: Path, on_conflict: str, status: int, said: str
) -> None:
    import_file(tmp_path, server, write_ndjson(tmp_path / "known.ndjson", people(3)))

    result = import_file(
        tmp_path, server, write_ndjson(tmp_path / "users.ndjson", people(4)), "--on-conflict", on_conflict
    )

    assert (result.returncode, result.stdout.splitlines()[0]) == (status, said), result.stderr


def test_a_dry_run_reports_and_changes_nothing(server: LiveServer, tmp_path: Path) -> None:
    users = people(1300)
    users[4]["email"] = "nobody"
    users[1200]["shoe_size"] = 5
    file = write_ndjson(tmp_path / "users.ndjson", users)
    with file.open("a") as more:
        more.write("{bad\n")

    result = import_file(tmp_path, server, file, "--dry-run")

    lines = result.stdout.splitlines()
    assert result.returncode == 1, result.stderr
    assert lines[0] == "Would be: 1,298 created, 3 failed."
    assert [line.split()[:3] for line in lines[3:6]] == [
        ["5", "5", "validation_failed"],
        ["1201", "1201", "validation_failed"],
        ["1301", "1301", "malformed_json"],
    ]
    assert lines[3].split()[3] == "email"
    assert exported(server) == []


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_file_with_an_unknown_column_is_refused(server: LiveServer, tmp_path: Path, options: tuple[str, ...]) -> None:
    file = tmp_path / "users.csv"
    file.write_text("email,shoe_size\na@example.org,5\n")

    result = import_file(tmp_path, server, file, *options)

    assert result.returncode == 3
    assert result.stderr.startswith("422 validation_failed")
    assert "\n- /header" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_is_applied_anew_when_it_is_asked_for(server: LiveServer, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "users.ndjson", people(2))
    import_file(tmp_path, server, file, "--on-conflict", "skip")

    again = import_file(tmp_path, server, file, "--on-conflict", "skip", "--again")

    assert (again.returncode, again.stdout) == (0, "2 skipped.\n"), again.stderr


def test_an_export_is_imported_with_its_ids(server: LiveServer, tmp_path: Path) -> None:
    import_file(tmp_path, server, write_ndjson(tmp_path / "users.ndjson", people(2)))
    before = exported(server)
    with server.client() as client:
        for user in before:
            client.delete(f"{USERS}/{user['id']}")
    moved = [{**user, "id": f"0197{user['id'][4:]}", "created_at": None} for user in before]

    file = write_ndjson(tmp_path / "export.ndjson", moved)
    result = import_file(tmp_path, server, file, "--keep-ids")

    assert (result.returncode, result.stdout) == (0, "2 created.\n"), result.stderr
    assert [user["id"] for user in exported(server)] == [user["id"] for user in moved]


def test_unknown_columns_are_passed_over_when_it_is_asked_for(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "users.tsv"
    file.write_text("email\tshoe_size\r\na@example.org\t5\r\n")

    result = import_file(tmp_path, server, file, "--unknown-columns", "ignore")

    assert (result.returncode, result.stdout) == (0, "1 created.\n"), result.stderr


def wait_for_import(server: LiveServer, condition: Callable[[dict[str, Any]], bool]) -> None:
    with server.client() as client:
        wait_until(lambda: any(map(condition, client.get(f"{USERS}/imports").json()["items"])), "the import")


def test_an_interrupted_import_is_resumed(server: LiveServer, tmp_path: Path) -> None:
    # More than the buffers of a connection hold: the service can't have all of it before the command ends.
    users = [{**user, "preferences": {"text": "x" * 4000}} for user in people(8000)]
    file = write_ndjson(tmp_path / "users.ndjson", users)
    process = subprocess.Popen(
        [sys.executable, "-m", "user_service_client.command.main", "import", str(file), "--url", server_url(server)],
        env=users_environ(tmp_path, {"USER_SERVICE_API_KEY": API_KEY}),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_import(server, lambda begun: begun["position"] > 0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    wait_for_import(server, lambda begun: begun["state"] == "interrupted")

    resumed = import_file(tmp_path, server, file)

    assert process.returncode == 130
    assert "The same command resumes the import." in said
    assert "Traceback" not in said
    assert (resumed.returncode, resumed.stdout) == (0, "8,000 created.\n"), resumed.stderr
    assert len(exported(server)) == 8000


def test_the_service_of_this_machine_is_the_default(server: LiveServer, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "users.ndjson", people(1))

    result = run_users(tmp_path, "import", str(file), PORT=str(server.port), USER_SERVICE_API_KEY=API_KEY)

    assert (result.returncode, result.stderr) == (0, "1 created.\n")
    done = json.loads(result.stdout)
    assert (done["state"], done["created"], done["was_done_before"]) == ("completed", 1, False)


def test_a_pipe_gets_the_import_and_every_failure(server: LiveServer, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "users.ndjson", [{"email": "nobody"}] * 30)

    result = run_users(tmp_path, "import", str(file), "--url", server_url(server), USER_SERVICE_API_KEY=API_KEY)

    done, *failures = map(json.loads, result.stdout.splitlines())
    assert (result.returncode, result.stderr) == (1, "30 failed.\n")
    assert (done["failed"], [failure["line"] for failure in failures]) == (30, list(range(1, 31)))


def test_a_terminal_gets_a_bar_of_what_was_applied(server: LiveServer, tmp_path: Path) -> None:
    # So many that the client asks for the progress, which it does each half second.
    file = write_ndjson(
        tmp_path / "users.ndjson", [{**user, "preferences": {"t": "x" * 300}} for user in people(40_000)]
    )

    status, said = run_users_on_terminal(
        tmp_path, "import", str(file), "--url", server_url(server), USER_SERVICE_API_KEY=API_KEY
    )

    assert status == 0
    assert "[#" in said
    assert " lines, " in said
    assert said.endswith("40,000 created.\n")


@pytest.mark.parametrize("options", [(), ("--map", "mail=email")])
def test_standard_input_is_imported_and_resumed_as_a_file(
    server: LiveServer, tmp_path: Path, options: tuple[str, ...]
) -> None:
    name = "mail" if options else "email"
    text = "".join(json.dumps({name: user["email"]}) + "\n" for user in people(3))
    arguments = ["import", "-", "--format", "ndjson", "--url", server_url(server), *options]

    first, second = (run_users(tmp_path, *arguments, given=text, USER_SERVICE_API_KEY=API_KEY) for _ in range(2))

    assert [json.loads(result.stdout)["was_done_before"] for result in (first, second)] == [False, True]
    assert len(exported(server)) == 3


@pytest.mark.parametrize("start", ["", "\ufeff", "sep=;\r\n", "\ufeffsep=;,\r\n"])
def test_columns_of_other_names_are_mapped(server: LiveServer, tmp_path: Path, start: str) -> None:
    file = tmp_path / "people.csv"
    rows = 'a@example.org;"Ada; B";pro\r\nb@example.org;"Ada\r\nB";\r\n'
    file.write_text(f'{start}"E-Mail; privat";Vorname;Tarif\r\n{rows}', newline="")
    fields = ["e-mail; privat=email", "VORNAME=given_name", "Tarif=metadata.plan"]

    result = import_file(tmp_path, server, file, *(word for field in fields for word in ("--map", field)))

    (user,) = exported(server)
    # The service refuses a line break in a name: the second row was read as one record.
    assert result.stdout.startswith("1 created, 1 failed.\n"), result.stderr
    assert (user["email"], user["given_name"], user["metadata"]) == ("a@example.org", "Ada; B", {"plan": "pro"})


def test_members_of_other_names_are_mapped(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text('{"Mail": "a@example.org", "plan": "pro", "metadata": {"x": 1}}\n{bad\n')

    result = import_file(tmp_path, server, file, "--map", "mail=email", "--map", "plan=metadata.plan")

    assert result.stdout.startswith("1 created, 1 failed.\n")
    assert [user["metadata"] for user in exported(server)] == [{"plan": "pro", "x": 1}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--map", "email"], "expected NAME=field"),
        (["--map", "a=email", "--map", "b=email"], "is there twice"),
        (["--map", "absent=email"], "the file has no column absent"),
    ],
)
def test_a_wrong_mapping_is_named(server: LiveServer, tmp_path: Path, options: list[str], said: str) -> None:
    file = tmp_path / "people.csv"
    file.write_text("mail\na@example.org\n")

    result = import_file(tmp_path, server, file, *options)

    assert (result.returncode, said in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("name", ["import", "export"])
def test_a_service_that_does_not_respond_is_named(tmp_path: Path, name: str) -> None:
    port = free_port()
    file = write_ndjson(tmp_path / "users.ndjson", people(1))

    result = run_users(tmp_path, name, str(file), "--wait", "0", PORT=str(port), USER_SERVICE_API_KEY=API_KEY)

    assert result.returncode == 3
    assert f"No response from http://localhost:{port} (ConnectError)" in result.stderr
    assert "name another --url" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_key_is_refused(server: LiveServer, tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "users.ndjson", people(1))

    result = run_users(
        tmp_path,
        "import",
        str(file),
        "--url",
        server_url(server),
        USER_SERVICE_API_KEY="another-key-of-nobody-0123456789",
    )

    assert result.returncode == 3
    assert result.stderr.startswith("401 unauthenticated: ")
    assert "another-key" not in result.stderr


@pytest.mark.parametrize(
    ("name", "environ", "said"),
    [
        ("users.ndjson", {}, "No key for http://localhost:3002"),
        ("users.xlsx", {"USER_SERVICE_API_KEY": "x"}, "users.xlsx: a workbook can't be imported; save it as CSV UTF-8"),
        ("users.dat", {"USER_SERVICE_API_KEY": "x"}, "add --format ndjson or csv"),
        ("absent.csv", {"USER_SERVICE_API_KEY": "x"}, "absent.csv: can't be read (No such file or directory)"),
        ("users.ndjson", {"USER_SERVICE_API_KEY": "x", "USER_SERVICE_URL": "localhost:3002"}, "not an address"),
        ("users.ndjson", {"USER_SERVICE_API_KEY": "x", "PORT": "x y"}, "not an address"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(
    tmp_path: Path, name: str, environ: dict[str, str], said: str
) -> None:
    for file in ("users.ndjson", "users.xlsx", "users.dat"):
        write_ndjson(tmp_path / file, people(1))

    result = run_users(tmp_path, "import", str(tmp_path / name), **environ)

    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


class OtherService(BaseHTTPRequestHandler):
    """Redirects an export to where the key must not go, and knows nothing else."""

    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(302 if self.path.endswith("/export") else 404)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Not on the output of the tests."""


def test_another_service_is_told_apart_and_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with serving_http(ThreadingHTTPServer(("127.0.0.1", 0), OtherService)) as url:
        result = run_users(tmp_path, "export", "users.ndjson", "--url", url, USER_SERVICE_API_KEY="x")

    assert result.returncode == 3
    assert result.stderr == "The response 302 is not one of the User Service: no problem document\n"
    assert OtherService.paths == [f"{USERS}/export"]
