"""`users export` from a running service: files that are complete or not there."""

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.api import USERS
from support.clients import run_users, users_environ
from support.faulty_proxy import faulty_proxy
from support.live_server import LiveServer, live
from support.settings import API_KEY, make_settings
from user_service_client.command.bulk import count_rows

MODULE = "user_service_client.command.main"


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with live(make_settings(database_url, tmp_path)) as running:
        with running.client() as client:
            users = [{"email": f"u{number}@example.org", "external_id": f"u-{number}"} for number in range(3)]
            made = [client.post(USERS, json=user).json() for user in users]
            assert client.delete(f"{USERS}/{made[1]['id']}").status_code == 204
        yield running


def export(folder: Path, port: int, *arguments: str, key: str = API_KEY) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{port}"
    return run_users(folder, "export", *arguments, "--url", url, USER_SERVICE_API_KEY=key)


def external_ids(text: str) -> list[str]:
    return [json.loads(line)["external_id"] for line in text.splitlines()]


def test_an_export_writes_users_that_are_not_deleted(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "users.ndjson"

    result = export(tmp_path, server.port, str(file))

    assert (result.returncode, result.stderr) == (0, "2 users exported.\n")
    assert external_ids(file.read_text()) == ["u-0", "u-2"]
    assert not (tmp_path / "users.ndjson.part").exists()


def test_deleted_users_are_exported_when_they_are_asked_for(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "users.ndjson"

    result = export(tmp_path, server.port, str(file), "--include-deleted")

    assert (result.returncode, result.stderr) == (0, "3 users exported.\n")
    assert external_ids(file.read_text()) == ["u-0", "u-1", "u-2"]


def test_a_file_of_csv_is_exported_by_its_name(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"

    result = export(tmp_path, server.port, str(file))

    assert (result.returncode, result.stderr) == (0, "2 users exported.\n")
    assert [line.split(",")[1] for line in file.read_text().splitlines()] == ["external_id", "u-0", "u-2"]


def test_an_export_goes_to_standard_output(server: LiveServer, tmp_path: Path) -> None:
    result = export(tmp_path, server.port, "-")

    assert (result.returncode, external_ids(result.stdout)) == (0, ["u-0", "u-2"])


def test_a_refused_export_leaves_the_file_as_it_was(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "users.ndjson"
    file.write_text("before")

    result = export(tmp_path, server.port, str(file), key="another-key-of-nobody-0123456789")

    assert result.returncode == 3
    assert "401 unauthenticated" in result.stderr
    assert file.read_text() == "before"


def test_a_file_that_can_not_be_written_is_named(server: LiveServer, tmp_path: Path) -> None:
    result = export(tmp_path, server.port, str(tmp_path / "absent" / "users.ndjson"))

    assert result.returncode == 2
    assert "users.ndjson: can't be written (No such file or directory)" in result.stderr


def test_a_disk_that_is_full_keeps_no_part_of_a_file(server: LiveServer, tmp_path: Path) -> None:
    with server.client() as client:
        user = client.post(USERS, json={"email": "n@example.org", "preferences": {"text": "x" * 5000}}).json()

    # The limit of a file's size, 512 or 1,024 bytes, is an error of the write, as a full disk is.
    limited = ["sh", "-c", 'ulimit -f 1 && exec "$@"', "sh", sys.executable, "-B", "-m", MODULE]
    environ = users_environ(
        tmp_path, {"USER_SERVICE_URL": f"http://127.0.0.1:{server.port}", "USER_SERVICE_API_KEY": API_KEY}
    )
    for arguments in (["export", "users.ndjson"], ["export-person", user["id"], "person.json"]):
        result = subprocess.run(
            [*limited, *arguments], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (result.returncode, "can't be written (File too large)" in result.stderr) == (2, True), result.stderr

    assert list(tmp_path.glob("*son*")) == []


def test_a_folder_is_not_replaced_by_an_export(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "users.ndjson" / "full").mkdir(parents=True)

    result = export(tmp_path, server.port, "users.ndjson")

    assert (result.returncode, "can't be written" in result.stderr) == (2, True)
    assert not (tmp_path / "users.ndjson.part").exists()


@pytest.mark.parametrize("name", ["users.ndjson", "users.csv"])
def test_an_export_that_is_cut_off_replaces_no_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    media_type = b"text/csv" if name.endswith("csv") else b"application/x-ndjson"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + media_type + b"\r\nTransfer-Encoding: chunked\r\n\r\n"

    with faulty_proxy(1, head + b"3\r\n{}\n\r\n40\r\n{}") as proxy:
        result = export(tmp_path, proxy.port, str(file), "--wait", "0")

    assert result.returncode == 3
    assert "(RemoteProtocolError)" in result.stderr or "no user" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_cut_off_is_completed(server: LiveServer, tmp_path: Path) -> None:
    for name in ("users.ndjson", "users.csv"):
        with faulty_proxy(server.port, "cut_response", "none") as proxy:
            result = export(tmp_path, proxy.port, str(tmp_path / name), "--include-deleted")
        assert (result.returncode, result.stderr) == (0, "3 users exported.\n")

    assert external_ids((tmp_path / "users.ndjson").read_text()) == ["u-0", "u-1", "u-2"]
    assert len((tmp_path / "users.csv").read_text().splitlines()) == 4
    assert stat.S_IMODE((tmp_path / "users.csv").stat().st_mode) == 0o600


def test_an_export_has_the_filters_and_fields_of_the_list(server: LiveServer, tmp_path: Path) -> None:
    result = export(tmp_path, server.port, "--fields", "external_id", "--external-id", "u-2")

    assert (result.returncode, result.stderr) == (0, "1 users exported.\n")
    assert [sorted(json.loads(line)) for line in result.stdout.splitlines()] == [["external_id", "id"]]


def test_line_breaks_in_cells_are_no_users(server: LiveServer, tmp_path: Path) -> None:
    with server.client() as client:
        client.post(USERS, json={"email": "n@example.org", "preferences": {"text": "a\nb"}}).raise_for_status()

    result = export(tmp_path, server.port, "--format", "csv")

    assert result.stderr == "3 users exported.\n"
    assert sum(count_rows(piece, 0) for piece in [b'a,"x\ny"\r\n', b"b\n"]) == 2
    assert count_rows(b'y"\r\nb,"z\n', 1) == 1
