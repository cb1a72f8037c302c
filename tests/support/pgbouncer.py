"""A real PgBouncer in front of a PostgreSQL of the tests, with the configuration of docs/connections.md."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from support.servers import PostgresServer
from support.waiting import wait_until

ROLE = "user_service"
TOOLS = Path(os.environ.get("TOOLS_DIR") or Path.home() / ".cache/user-service/tools")
DOCUMENT = Path(__file__).parents[2] / "docs/connections.md"


def find_programs() -> list[Path]:
    """The different PgBouncers of this machine: scripts/install-pgbouncer's, and the one of the distribution."""
    own = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    found = {path.resolve() for path in (TOOLS / "bin/pgbouncer", Path(own or "/none")) if path.exists()}
    return sorted(found)


def find_program(*, keeps_statements: bool) -> Path:
    """A PgBouncer from 1.21 on, or an older one. Skips the test where the machine has none."""
    for program in find_programs():
        if (read_version(program) >= (1, 21)) == keeps_statements:
            return program
    reason = "PgBouncer 1.21 or later: run scripts/install-pgbouncer" if keeps_statements else "a PgBouncer before 1.21"
    pytest.skip(f"this machine lacks {reason}")


def read_version(program: Path) -> tuple[int, ...]:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"PgBouncer (\d+)\.(\d+)", text)
    assert found is not None, text
    return tuple(map(int, found.groups()))


def documented(language: str) -> str:
    """The first code block of a language in the part of docs/connections.md on PgBouncer."""
    part = DOCUMENT.read_text().partition("## PgBouncer")[2]
    found = re.search(rf"```{language}\n(.*?)```", part, re.DOTALL)
    assert found is not None
    return found[1]


class PgBouncer:
    """A PgBouncer with a pool of two connections per database.

    The documented settings apply unless `settings` changes one; those that the program does not know are left out.
    """

    def __init__(self, program: Path, server: PostgresServer, folder: Path) -> None:
        self.program = program
        self.server = server
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        # Where the server's account can run it.
        shutil.copy(program, folder / "program")
        folder.chmod(0o755)

    def url(self, database: str) -> str:
        return f"postgresql://{ROLE}@/{database}?host={self.folder}&port=6432"

    def configure(self, settings: dict[str, str]) -> None:
        ini = documented("ini").partition("[pgbouncer]")[2]
        configured = dict(re.findall(r"^(\w+) *= *(.*)$", ini, re.MULTILINE)) | {
            "default_pool_size": "2",
            "auth_type": "trust",
            "auth_file": str(self.folder / "users"),
            "listen_addr": "",
            "listen_port": "6432",
            "unix_socket_dir": str(self.folder),
            "logfile": str(self.folder / "log"),
            **settings,
        }
        if read_version(self.program) < (1, 21):
            configured.pop("max_prepared_statements")
        (self.folder / "users").write_text(f'"{ROLE}" ""\n"postgres" ""\n')
        # PgBouncer does not run as root, and the server's account can't open the folder that the server's folder is in.
        sockets = self.server.sockets if self.server.cluster.account is None else "/proc/self/cwd"
        (self.folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={sockets} port=5432\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in configured.items())
        )

    def start(self, **settings: str) -> None:
        self.configure(settings)
        account = self.server.cluster.account
        user = {"user": account.uid, "group": account.gid, "extra_groups": []} if account is not None else {}
        if account is not None:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, account.uid, account.gid)
        self.process = subprocess.Popen(
            [self.folder / "program", "-q", self.folder / "pgbouncer.ini"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self.server.sockets,
            **user,  # type: ignore[call-overload]
        )
        wait_until((self.folder / ".s.PGSQL.6432").exists, f"PgBouncer: {self.folder}/log")

    def stop(self) -> None:
        """Ends every connection; does nothing when it is stopped."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        (self.folder / ".s.PGSQL.6432").unlink(missing_ok=True)

    def kill(self) -> None:
        """Ends it in the middle of everything."""
        assert self.process is not None
        self.process.kill()
        self.stop()


@contextmanager
def pgbouncer(program: Path, server: PostgresServer, **settings: str) -> Iterator[PgBouncer]:
    """A running PgBouncer in front of a server."""
    folder = Path(mkdtemp(prefix="pgb-"))
    pooler = PgBouncer(program, server, folder)
    pooler.start(**settings)
    try:
        yield pooler
    finally:
        pooler.stop()
        shutil.rmtree(folder)
