"""The embedded PostgreSQL in processes of their own."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil

from support.waiting import PATIENCE_SECONDS

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


class EmbeddingProcess:
    """A process that starts the embedded PostgreSQL, and stops it at the end of its input."""

    def __init__(self, data_dir: Path, uid: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(data_dir), str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self) -> int:
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


def server_pids(data_dir: Path) -> list[int]:
    """The main process of the server on the folder, if one runs."""
    try:
        pid = int((data_dir / "postgres/postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        return [pid] if process.status() != psutil.STATUS_ZOMBIE else []
    except (OSError, ValueError, psutil.NoSuchProcess):
        return []


def fetch_value(url: str, statement: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def answers(url: str) -> bool:
    try:
        return fetch_value(url, "SELECT 1") == 1
    except (OSError, asyncpg.PostgresError):
        return False
