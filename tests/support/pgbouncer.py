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


@contextmanager
def pgbouncer(
    program: Path, server: PostgresServer, *, pool_mode: str = "transaction", **settings: str
) -> Iterator[str]:
    """A running PgBouncer with a pool of two connections per database; gives the prefix of its URLs.

    The documented settings apply unless `settings` changes one; those that the program does not know are left out.
    """
    folder = Path(mkdtemp(prefix="pgb-"))
    configured = dict(re.findall(r"^(\w+) *= *(.*)$", documented("ini").partition("[pgbouncer]")[2], re.MULTILINE))
    configured |= {
        "pool_mode": pool_mode,
        "default_pool_size": "2",
        "auth_type": "trust",
        "auth_file": str(folder / "users"),
        "listen_addr": "",
        "listen_port": "6432",
        "unix_socket_dir": str(folder),
        "logfile": str(folder / "log"),
        **settings,
    }
    if read_version(program) < (1, 21):
        configured.pop("max_prepared_statements")
    (folder / "users").write_text(f'"{ROLE}" ""\n"postgres" ""\n')
    account = server.cluster.account
    # PgBouncer does not run as root, and the server's account can't open the folder that the server's folder is in.
    sockets = server.sockets if account is None else "/proc/self/cwd"
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={sockets} port=5432\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in configured.items())
    )
    # Where the server's account can run it.
    shutil.copy(program, folder / "program")
    folder.chmod(0o755)
    user = {"user": account.uid, "group": account.gid, "extra_groups": []} if account is not None else {}
    if account is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.uid, account.gid)
    process = subprocess.Popen(
        [folder / "program", "-q", folder / "pgbouncer.ini"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=server.sockets,
        **user,  # type: ignore[call-overload]
    )
    try:
        wait_until((folder / ".s.PGSQL.6432").exists, f"PgBouncer: {folder}/log")
        yield f"postgresql://{ROLE}@/{{database}}?host={folder}&port=6432"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder)
