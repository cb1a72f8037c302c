"""The embedded PostgreSQL under other accounts, and what is closed to them."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support.embedded import SERVICE, EmbeddingProcess, answers, fetch_value, server_pids
from user_service.postgres.embedded.server import EmbeddedPostgres
from user_service.postgres.embedded.wheel import PACKAGE, find_programs, readable_by_all

# The account `nobody`.
UNPRIVILEGED_UID = 65534


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    uid = UNPRIVILEGED_UID if os.geteuid() == 0 else os.geteuid()

    result = subprocess.run(
        [sys.executable, "-c", SERVICE, str(closed / "data"), str(uid)],
        input="",
        capture_output=True,
        text=True,
    )

    assert result.returncode == 1
    assert f"refused: The embedded PostgreSQL can't use {closed}" in result.stderr
    assert "choose another DATA_DIR, or set DATABASE_URL" in result.stderr


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it changes to another account")


def test_an_ordinary_account_runs_it(start_service: Callable[..., EmbeddingProcess]) -> None:
    needs_root()
    if not readable_by_all(find_programs(None)):
        pytest.skip(f"the wheel in {find_programs(None)} is closed to other accounts")
    home = Path("/tmp", f"user-service-test-{os.getpid()}")
    home.mkdir(mode=0o700)
    os.chown(home, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    try:
        service = start_service(home / "data", UNPRIVILEGED_UID)
        assert fetch_value(service.read_line(), "SELECT current_database()") == "user_service"
        assert psutil.Process(server_pids(home / "data")[0]).uids().effective == UNPRIVILEGED_UID

        by_root = EmbeddedPostgres.start(home / "data")
        assert answers(by_root.url)
        assert service.stop() == 0
        by_root.stop()

        again = start_service(home / "data", UNPRIVILEGED_UID)
        assert answers(again.read_line())
        assert again.stop() == 0
    finally:
        shutil.rmtree(home)


def test_root_needs_no_wider_permissions(tmp_path: Path) -> None:
    needs_root()
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    before = [stat.S_IMODE(folder.stat().st_mode) for folder in home.parents]

    server = EmbeddedPostgres.start(home / ".local/share/user-service")

    assert psutil.Process(server_pids(home / ".local/share/user-service")[0]).uids().effective != 0
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in home.parents] == before
    server.stop()


def test_root_runs_it_from_a_closed_virtual_environment(tmp_path: Path) -> None:
    needs_root()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = find_programs(None).parents[1]
    for part in (wheel, wheel.with_name(f"{PACKAGE}.libs")):
        shutil.copytree(part, closed / part.name, ignore=shutil.ignore_patterns("include", "pginstall"))
    code = "import sys; sys.path.insert(0, sys.argv.pop())" + SERVICE

    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data"), "0", str(closed)],
        input="",
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("postgresql://")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_socket_folder_is_closed_to_others(tmp_path: Path) -> None:
    server = EmbeddedPostgres.start(tmp_path / ("deep" * 40))
    link = tmp_path / ("deep" * 40) / "postgres.socket"

    assert stat.S_IMODE(link.readlink().stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert not connects_as_other_account(link.readlink())
    server.stop()


def connects_as_other_account(sockets: Path) -> bool:
    code = "import os, socket, sys; os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, str(sockets / ".s.PGSQL.5432")], capture_output=True)
    return result.returncode == 0
