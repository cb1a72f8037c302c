"""The embedded PostgreSQL, with the real server and services in processes of their own."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support.embedded import EmbeddingProcess, answers, fetch_value, server_pids
from support.waiting import PATIENCE_SECONDS, wait_until
from user_service.postgres.embedded.server import EmbeddedPostgres, EmbeddedPostgresError


def test_data_survives_a_restart(data_dir: Path) -> None:
    first = EmbeddedPostgres.start(data_dir)
    fetch_value(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    first.stop()
    first.stop()
    assert server_pids(data_dir) == []

    second = EmbeddedPostgres.start(data_dir)

    assert fetch_value(second.url, "SELECT answer FROM kept") == 42
    second.stop()


def test_a_dropped_database_is_made_again(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    fetch_value(server.url.replace("/user_service?", "/postgres?"), "DROP DATABASE user_service")
    server.stop()

    server = EmbeddedPostgres.start(data_dir)

    assert fetch_value(server.url, "SELECT current_database()") == "user_service"
    server.stop()


def test_it_listens_on_a_private_socket_alone_and_commits_safely(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)

    assert fetch_value(server.url, "SHOW listen_addresses") == ""
    assert fetch_value(server.url, "SHOW fsync") == "on"
    assert fetch_value(server.url, "SHOW synchronous_commit") == "on"
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
    assert not psutil.Process(server_pids(data_dir)[0]).net_connections("tcp")
    server.stop()


def test_pg_variables_of_the_shell_do_not_count(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGUSER": "ada", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)

    server = EmbeddedPostgres.start(data_dir)

    assert fetch_value(server.url, "SELECT current_user") == "postgres"
    server.stop()


@pytest.mark.parametrize("name", ["deep" * 40, "with a space", "a,b:c", "per%cent+plus"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    server = EmbeddedPostgres.start(tmp_path / name)

    assert fetch_value(server.url, "SELECT current_database()") == "user_service"
    server.stop()
    assert not (tmp_path / name / "postgres.socket").is_symlink()


def test_two_services_share_it_and_the_last_one_stops_it(
    data_dir: Path, start_service: Callable[..., EmbeddingProcess]
) -> None:
    first, second = start_service(data_dir), start_service(data_dir)
    url = first.read_line()
    assert second.read_line() == url

    assert first.stop() == 0
    assert answers(url)
    assert second.stop() == 0
    assert server_pids(data_dir) == []


def test_a_killed_service_leaves_a_server_that_the_next_takes_over_and_stops(
    data_dir: Path, start_service: Callable[..., EmbeddingProcess]
) -> None:
    killed = start_service(data_dir)
    url = killed.read_line()
    fetch_value(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    killed.process.kill()
    killed.process.wait()
    left = server_pids(data_dir)
    assert len(left) == 1

    server = EmbeddedPostgres.start(data_dir)

    assert server_pids(data_dir) == left
    assert fetch_value(server.url, "SELECT answer FROM kept") == 42
    server.stop()
    wait_until(lambda: server_pids(data_dir) == [], "the server")


def test_a_server_killed_with_its_service_recovers(
    data_dir: Path, start_service: Callable[..., EmbeddingProcess]
) -> None:
    killed = start_service(data_dir)
    fetch_value(killed.read_line(), "CREATE TABLE kept AS SELECT 42 AS answer")
    killed.process.kill()
    killed.process.wait()
    os.kill(server_pids(data_dir)[0], signal.SIGKILL)

    server = EmbeddedPostgres.start(data_dir)

    assert fetch_value(server.url, "SELECT answer FROM kept") == 42
    server.stop()


def test_a_server_that_dies_is_started_again(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    dead = server_pids(data_dir)[0]

    os.kill(dead, signal.SIGKILL)

    wait_until(lambda: answers(server.url), "the server")
    assert server_pids(data_dir) != [dead]
    server.stop()
    assert server_pids(data_dir) == []


def test_another_process_with_the_old_process_id_is_left_alone(data_dir: Path) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    other = subprocess.Popen(["sleep", "600"])
    try:
        (data_dir / "postgres/postmaster.pid").write_text(f"{other.pid}\n/nowhere\n1\n5432\n\n\n\nready\n")

        server = EmbeddedPostgres.start(data_dir)
        assert answers(server.url)
        server.stop()

        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_ctrl_c_reaches_the_service_and_not_its_database(
    data_dir: Path, start_service: Callable[..., EmbeddingProcess]
) -> None:
    service = start_service(data_dir)
    service.read_line()

    os.killpg(service.process.pid, signal.SIGINT)

    assert service.read_line() == "user_service"
    assert service.process.wait(PATIENCE_SECONDS) == 0
    assert server_pids(data_dir) == []


def test_a_first_start_that_was_cut_off_is_done_again(data_dir: Path) -> None:
    draft = data_dir / "postgres.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")

    server = EmbeddedPostgres.start(data_dir)

    assert answers(server.url)
    server.stop()


def test_files_of_another_program_are_refused_and_kept(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres/thesis.txt").write_text("mine")

    with pytest.raises(EmbeddedPostgresError, match="choose another DATA_DIR"):
        EmbeddedPostgres.start(data_dir)

    assert (data_dir / "postgres/thesis.txt").read_text() == "mine"


def test_data_of_another_version_is_refused(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres/PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedPostgresError, match="no PostgreSQL 9"):
        EmbeddedPostgres.start(data_dir)


def test_damaged_data_is_reported_with_the_place_of_the_log(data_dir: Path) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    (data_dir / "postgres/global/pg_control").write_bytes(b"")

    with pytest.raises(EmbeddedPostgresError, match=r"ended at its start: .*postgres\.log"):
        EmbeddedPostgres.start(data_dir)


def test_a_missing_wheel_is_named_with_its_remedy(data_dir: Path) -> None:
    code = f"from user_service.postgres.embedded.server import *; EmbeddedPostgres.start({str(data_dir)!r})"
    source = Path(__file__).parents[3] / "func"

    result = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(source)}, capture_output=True, text=True
    )

    assert result.returncode == 1
    assert "start the service with scripts/serve, which installs it" in result.stderr
