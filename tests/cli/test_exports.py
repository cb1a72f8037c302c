"""`user-service export` from a running service: files that are complete or not there."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from support.api import USERS
from support.live_server import LiveServer, live
from support.process import command
from support.settings import API_KEY, make_settings


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[LiveServer]:
    with live(make_settings(database_url, tmp_path)) as running:
        with running.client() as client:
            users = [{"email": f"u{number}@example.org", "external_id": f"u-{number}"} for number in range(3)]
            made = [client.post(USERS, json=user).json() for user in users]
            assert client.delete(f"{USERS}/{made[1]['id']}").status_code == 204
        yield running


def export(folder: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = f"http://127.0.0.1:{port}"
    return command(folder, "export", *arguments, "--url", url, USER_SERVICE_API_KEY=API_KEY)


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

    result = export(tmp_path, server.port, str(file), "--api-key", "another-key-of-nobody-0123456789")

    assert result.returncode == 3
    assert "401 unauthenticated" in result.stderr
    assert file.read_text() == "before"


def test_a_file_that_can_not_be_written_is_named(server: LiveServer, tmp_path: Path) -> None:
    result = export(tmp_path, server.port, str(tmp_path / "absent" / "users.ndjson"))

    assert result.returncode == 2
    assert "users.ndjson: can't be written (No such file or directory)" in result.stderr


def test_an_export_that_is_cut_off_replaces_no_file(tmp_path: Path) -> None:
    file = tmp_path / "users.ndjson"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = Thread(target=send_half_an_export, args=[listener])
        sender.start()
        result = export(tmp_path, listener.getsockname()[1], str(file))
        sender.join()

    assert result.returncode == 3
    assert "The response was cut off (ClientPayloadError)." in result.stderr
    assert not file.exists()


def send_half_an_export(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"3\r\n{}\n\r\n40\r\n{}")
