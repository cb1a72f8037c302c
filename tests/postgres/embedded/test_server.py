"""The embedded PostgreSQL, with the real server and services in processes of their own."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from user_service.postgres.embedded.server import EmbeddedPostgres, EmbeddedPostgresError
from user_service.postgres.embedded.wheel import PACKAGE, find_programs, readable_by_all

NOBODY = 65534
PATIENCE_SECONDS = 60.0

# Starts on the folder, says where, leaves at the end of its input, and outlives Ctrl-C to tell whether the
# database did too. The account is changed after the imports: the interpreter may be closed to it.
SERVICE = """
import asyncio, os, sys
import asyncpg, psutil
from pathlib import Path
from user_service.postgres.embedded.server import EmbeddedPostgres, EmbeddedPostgresError
folder, uid = Path(sys.argv[1]), int(sys.argv[2])
if uid != os.geteuid():
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
async def ask():
    connection = await asyncpg.connect(server.url)
    print(await connection.fetchval("SELECT current_database()"), flush=True)
    await connection.close()
try:
    server = EmbeddedPostgres.start(folder)
except EmbeddedPostgresError as error:
    sys.exit(f"refused: {error}")
try:
    print(server.url, flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    asyncio.run(ask())
server.stop()
"""


class Service:
    def __init__(self, data_dir: Path, uid: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(data_dir), str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def say(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def start_service() -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(data_dir: Path, uid: int | None = None) -> Service:
        started.append(Service(data_dir, os.geteuid() if uid is None else uid))
        return started[-1]

    yield start
    for service in started:
        service.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    for pid in server_pids(folder):
        os.kill(pid, signal.SIGQUIT)
        until(lambda: not server_pids(folder))


def server_pids(data_dir: Path) -> list[int]:
    """The main process of the server on the folder, if one runs."""
    try:
        pid = int((data_dir / "postgres/postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        return [pid] if process.status() != psutil.STATUS_ZOMBIE else []
    except (OSError, ValueError, psutil.NoSuchProcess):
        return []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in a minute"
        time.sleep(0.05)


def run(url: str, statement: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def answers(url: str) -> bool:
    try:
        return run(url, "SELECT 1") == 1
    except (OSError, asyncpg.PostgresError):
        return False


def test_data_survives_a_restart(data_dir: Path) -> None:
    first = EmbeddedPostgres.start(data_dir)
    run(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    first.stop()
    first.stop()
    assert server_pids(data_dir) == []

    second = EmbeddedPostgres.start(data_dir)

    assert run(second.url, "SELECT answer FROM kept") == 42
    second.stop()


def test_a_dropped_database_is_made_again(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    run(server.url.replace("/user_service?", "/postgres?"), "DROP DATABASE user_service")
    server.stop()

    server = EmbeddedPostgres.start(data_dir)

    assert run(server.url, "SELECT current_database()") == "user_service"
    server.stop()


def test_it_listens_on_a_private_socket_alone_and_commits_safely(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)

    assert run(server.url, "SHOW listen_addresses") == ""
    assert run(server.url, "SHOW fsync") == "on"
    assert run(server.url, "SHOW synchronous_commit") == "on"
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
    assert not psutil.Process(server_pids(data_dir)[0]).net_connections("tcp")
    server.stop()


def test_pg_variables_of_the_shell_do_not_count(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGUSER": "ada", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)

    server = EmbeddedPostgres.start(data_dir)

    assert run(server.url, "SELECT current_user") == "postgres"
    server.stop()


@pytest.mark.parametrize("name", ["deep" * 40, "with a space", "a,b:c", "per%cent+plus"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    server = EmbeddedPostgres.start(tmp_path / name)

    assert run(server.url, "SELECT current_database()") == "user_service"
    server.stop()
    assert not (tmp_path / name / "postgres.socket").is_symlink()


def test_two_services_share_it_and_the_last_one_stops_it(data_dir: Path, start_service: Callable[..., Service]) -> None:
    first, second = start_service(data_dir), start_service(data_dir)
    url = first.say()
    assert second.say() == url

    assert first.end() == 0
    assert answers(url)
    assert second.end() == 0
    assert server_pids(data_dir) == []


def test_a_killed_service_leaves_a_server_that_the_next_takes_over_and_stops(
    data_dir: Path, start_service: Callable[..., Service]
) -> None:
    killed = start_service(data_dir)
    url = killed.say()
    run(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    killed.process.kill()
    killed.process.wait()
    left = server_pids(data_dir)
    assert len(left) == 1

    server = EmbeddedPostgres.start(data_dir)

    assert server_pids(data_dir) == left
    assert run(server.url, "SELECT answer FROM kept") == 42
    server.stop()
    until(lambda: server_pids(data_dir) == [])


def test_a_server_killed_with_its_service_recovers(data_dir: Path, start_service: Callable[..., Service]) -> None:
    killed = start_service(data_dir)
    run(killed.say(), "CREATE TABLE kept AS SELECT 42 AS answer")
    killed.process.kill()
    killed.process.wait()
    os.kill(server_pids(data_dir)[0], signal.SIGKILL)

    server = EmbeddedPostgres.start(data_dir)

    assert run(server.url, "SELECT answer FROM kept") == 42
    server.stop()


def test_a_server_that_dies_is_started_again(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    dead = server_pids(data_dir)[0]

    os.kill(dead, signal.SIGKILL)

    until(lambda: answers(server.url))
    assert server_pids(data_dir) != [dead]
    server.stop()
    assert server_pids(data_dir) == []


def test_a_stranger_with_the_old_process_id_is_left_alone(data_dir: Path) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        (data_dir / "postgres/postmaster.pid").write_text(f"{stranger.pid}\n/nowhere\n1\n5432\n\n\n\nready\n")

        server = EmbeddedPostgres.start(data_dir)
        assert answers(server.url)
        server.stop()

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_ctrl_c_reaches_the_service_and_not_its_database(data_dir: Path, start_service: Callable[..., Service]) -> None:
    service = start_service(data_dir)
    service.say()

    os.killpg(service.process.pid, signal.SIGINT)

    assert service.say() == "user_service"
    assert service.process.wait(PATIENCE_SECONDS) == 0
    assert server_pids(data_dir) == []


def test_a_first_start_that_was_cut_off_is_done_again(data_dir: Path) -> None:
    draft = data_dir / "postgres.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")

    server = EmbeddedPostgres.start(data_dir)

    assert answers(server.url)
    server.stop()


def test_files_of_somebody_else_are_refused_and_kept(data_dir: Path) -> None:
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
    assert "pip install 'function[embedded]'" in result.stderr


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()

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


def test_an_ordinary_account_runs_it(start_service: Callable[..., Service]) -> None:
    needs_root()
    if not readable_by_all(find_programs(None)):
        pytest.skip(f"the wheel in {find_programs(None)} is closed to other accounts")
    home = Path("/tmp", f"user-service-test-{os.getpid()}")
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    try:
        service = start_service(home / "data", NOBODY)
        assert run(service.say(), "SELECT current_database()") == "user_service"
        assert psutil.Process(server_pids(home / "data")[0]).uids().effective == NOBODY

        by_root = EmbeddedPostgres.start(home / "data")
        assert answers(by_root.url)
        assert service.end() == 0
        by_root.stop()

        again = start_service(home / "data", NOBODY)
        assert answers(again.say())
        assert again.end() == 0
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
        assert not connects_as_nobody(link.readlink())
    server.stop()


def connects_as_nobody(sockets: Path) -> bool:
    code = "import os, socket, sys; os.setuid(65534); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, str(sockets / ".s.PGSQL.5432")], capture_output=True)
    return result.returncode == 0
