"""The embedded PostgreSQL of one DATA_DIR. The first service starts it, and the last one stops it."""

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from user_service.postgres.embedded.locks import Locks
from user_service.postgres.embedded.socket_folder import (
    SOCKET,
    discard_socket_folder,
    make_socket_folder,
    socket_folder,
    socket_url,
)
from user_service.postgres.embedded.wheel import (
    Account,
    Cluster,
    EmbeddedPostgresError,
    change_owner,
    find_account,
    find_programs,
    find_readable_programs,
    last_lines,
    psql,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

logger = logging.getLogger(__name__)

CREATE_DATABASE = r"""
SELECT 'CREATE DATABASE user_service'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'user_service') \gexec
"""
START_SECONDS = 60.0
STOP_SECONDS = 8.0
WATCH_SECONDS = 1.0
MAX_WATCH_SECONDS = 60.0
# Failed statements and the DETAIL of an error can quote rows, which must not be logged.
SETTINGS = ("unix_socket_permissions=0700", "log_error_verbosity=terse", "log_min_error_statement=panic")


class EmbeddedPostgres:
    """A PostgreSQL server in `DATA_DIR/postgres` that all services on the same DATA_DIR share.

    `url` is a libpq URI over a Unix socket. A server that ends unexpectedly is started again within seconds.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.folder = data_dir / "postgres"
        self.log = data_dir / "postgres.log"
        self.locks = Locks(data_dir / "postgres-locks")
        self.account: Account | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.use_lock: int | None = None
        self.url = ""
        self.last_error = ""
        self.closing = threading.Event()
        self.watcher = threading.Thread(target=self.watch, name="embedded-postgres", daemon=True)

    @classmethod
    def start(cls, data_dir: Path) -> "EmbeddedPostgres":
        """Starts the server, or joins a running one. Afterwards `url` refers to the database `user_service`.

        Blocks for up to a minute. Raises EmbeddedPostgresError.
        """
        server = cls(Path(data_dir).expanduser().absolute())
        try:
            server.open()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The embedded PostgreSQL can't use {error.filename or data_dir}: {error.strerror or error}. "
                f"Make {server.data_dir} writable, choose another DATA_DIR, or set DATABASE_URL."
            ) from error
        return server

    def open(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.account = find_account(self.folder)
        with self.locks.hold_change():
            self.use_lock = self.locks.share("use")
            try:
                self.ensure_running()
            except BaseException:
                self.leave()
                raise
        self.watcher.start()

    def stop(self) -> None:
        """Leaves the server, and stops it if no other service uses it. May be called more than once."""
        self.closing.set()
        if self.watcher.is_alive():
            self.watcher.join()
        if self.use_lock is not None:
            with self.locks.hold_change():
                self.leave()

    def ensure_running(self) -> None:
        """Starts a server if there is none, and waits until it responds."""
        deadline = time.monotonic() + START_SECONDS
        self.launch_if_absent()
        while not self.responds():
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self.folder} did not respond within a minute: {self.last_error}. "
                    f"Read its log, {self.log}, or choose another DATA_DIR."
                )
            time.sleep(0.02)
            self.launch_if_absent()

    def launch_if_absent(self) -> bool:
        lock = self.locks.take("server")
        if lock is None:
            return False
        try:
            self.refuse_failed_start()
            self.launch(lock)
        finally:
            os.close(lock)
        return True

    def launch(self, lock: int) -> None:
        version = self.folder / "PG_VERSION"
        major = int(version.read_text()) if version.exists() else None
        cluster = Cluster(self.folder, find_readable_programs(self.account, major), self.account)
        if major is None:
            self.initialise(cluster, lock)
        elif self.folder.stat().st_uid == 0:
            change_owner(self.folder, self.account)
        sockets = make_socket_folder(self.data_dir, self.folder, self.account)
        if self.postmaster() is None:
            # PostgreSQL takes any process with the recorded id for a server. The lock shows that there is none.
            for claim in (self.folder / "postmaster.pid", sockets / f"{SOCKET}.lock"):
                claim.unlink(missing_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)
        self.process = cluster.launch(
            sockets="." if sockets == self.folder else str(sockets), log=self.log, settings=SETTINGS, keep_open=[lock]
        )

    def initialise(self, cluster: Cluster, lock: int) -> None:
        """Creates the cluster in another folder and renames it, so that an incomplete one is never used."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise EmbeddedPostgresError(
                f"{self.folder} has files, but no PostgreSQL data. Move them, or choose another DATA_DIR."
            )
        draft = self.data_dir / "postgres.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        change_owner(draft, self.account)
        replace(cluster, folder=draft).initialise(keep_open=[lock])
        draft.rename(self.folder)

    def refuse_failed_start(self) -> None:
        """Raises EmbeddedPostgresError if the server ended before its first response: it would do so again."""
        if self.process is not None and self.process.wait() != 0 and not self.url:
            reason = last_lines(self.log.read_text(errors="replace"))
            raise EmbeddedPostgresError(
                f"PostgreSQL in {self.folder} ended at its start: {reason}. Its log is {self.log}."
            )

    def responds(self) -> bool:
        """Whether the server accepts statements. Creates the database if it does not exist."""
        sockets = socket_folder(self.data_dir, self.folder)
        major = int((self.folder / "PG_VERSION").read_text())
        result = psql(find_programs(major), sockets, CREATE_DATABASE)
        self.last_error = last_lines(result.stderr)
        if result.returncode == 0:
            self.url = socket_url(sockets, "user_service")
        return result.returncode == 0

    def leave(self) -> None:
        if self.use_lock is not None:
            os.close(self.use_lock)
            self.use_lock = None
        last = self.locks.take("use")
        if last is not None:
            try:
                self.shut_down()
            finally:
                os.close(last)
        elif self.process is not None:
            self.process.returncode = 0  # other services use the server; this process does not wait for it
        self.process = None

    def shut_down(self) -> None:
        """A fast shutdown, then an immediate one: committed data is in the write-ahead log in both cases."""
        for request in (signal.SIGINT, signal.SIGQUIT):
            pid = self.postmaster()
            if pid is None:
                return
            with suppress(ProcessLookupError):
                os.kill(pid, request)
            if self.wait_for_end(within_seconds=STOP_SECONDS):
                discard_socket_folder(self.data_dir)
                return
        logger.warning("PostgreSQL in %s does not stop; it runs until the next start", self.folder)

    def postmaster(self) -> int | None:
        """The id of the server's process; None if none runs on this folder: its pid file may outlive the process."""
        if self.process is not None:
            return self.process.pid if self.process.poll() is None else None
        import psutil

        try:
            pid = int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])
            here = Path(psutil.Process(pid).cwd()) == self.folder.resolve()
        except (OSError, ValueError, psutil.Error):
            return None
        return pid if here else None

    def wait_for_end(self, *, within_seconds: float) -> bool:
        deadline = time.monotonic() + within_seconds
        while time.monotonic() < deadline:
            lock = self.locks.take("server")
            if lock is not None:
                os.close(lock)
                if self.process is not None:
                    self.process.wait()
                return True
            time.sleep(0.02)
        return False

    def watch(self) -> None:
        """Starts the server again if it has ended, so that the service recovers without a restart."""
        pause = WATCH_SECONDS
        while not self.closing.wait(pause):
            try:
                change = self.locks.take("change")
                if change is None:
                    continue
                try:
                    if self.launch_if_absent():
                        logger.warning("PostgreSQL in %s had ended; started it again", self.folder)
                finally:
                    os.close(change)
                pause = WATCH_SECONDS
            except (OSError, EmbeddedPostgresError) as error:
                pause = min(2 * pause, MAX_WATCH_SECONDS)
                logger.warning("PostgreSQL in %s has ended and can't be started: %s", self.folder, error)
