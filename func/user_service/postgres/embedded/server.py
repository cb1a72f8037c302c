"""The embedded PostgreSQL of one DATA_DIR: started by the first service on it, stopped by the last one."""

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
    url_of,
)
from user_service.postgres.embedded.wheel import (
    Account,
    Cluster,
    EmbeddedPostgresError,
    account_for,
    installed_programs,
    last_lines,
    own,
    programs_for,
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
LONGEST_WATCH_SECONDS = 60.0
# Failed statements and the DETAIL of an error can quote rows: neither belongs in a log.
SETTINGS = ("unix_socket_permissions=0700", "log_error_verbosity=terse", "log_min_error_statement=panic")


class EmbeddedPostgres:
    """
    A PostgreSQL server in `DATA_DIR/postgres` that all services on the same DATA_DIR share.

    `url` is a libpq URI over a Unix socket. A server that dies is started again within seconds.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.folder = data_dir / "postgres"
        self.log = data_dir / "postgres.log"
        self.locks = Locks(data_dir / "postgres-locks")
        self.account: Account | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.use: int | None = None
        self.url = ""
        self.refusal = ""
        self.closing = threading.Event()
        self.watcher = threading.Thread(target=self.watch, name="embedded-postgres", daemon=True)

    @classmethod
    def start(cls, data_dir: Path) -> "EmbeddedPostgres":
        """
        Starts the server, or joins the one that runs already; `url` then reaches the database `user_service`.

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
        self.account = account_for(self.folder)
        with self.locks.changing():
            self.use = self.locks.share("use")
            try:
                self.bring_up()
            except BaseException:
                self.leave()
                raise
        self.watcher.start()

    def stop(self) -> None:
        """Leaves the server, and stops it where no other service uses it. May be called more than once."""
        self.closing.set()
        if self.watcher.is_alive():
            self.watcher.join()
        if self.use is not None:
            with self.locks.changing():
                self.leave()

    def bring_up(self) -> None:
        """Makes the server answer: starts one, or waits for the one that is there."""
        deadline = time.monotonic() + START_SECONDS
        self.launch_if_absent()
        while not self.answers():
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self.folder} did not answer within a minute: {self.refusal}. "
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
        cluster = Cluster(self.folder, programs_for(self.account, major), self.account)
        if major is None:
            self.initialise(cluster, lock)
        elif self.folder.stat().st_uid == 0:
            own(self.folder, self.account)
        sockets = make_socket_folder(self.data_dir, self.folder, self.account)
        if self.postmaster() is None:
            # PostgreSQL takes whoever has the number now, a zombie too, for a server. The lock knows.
            for claim in (self.folder / "postmaster.pid", sockets / f"{SOCKET}.lock"):
                claim.unlink(missing_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)
        self.process = cluster.launch(
            sockets="." if sockets == self.folder else str(sockets),
            log=self.log,
            settings=SETTINGS,
            keep_open=[lock],
        )

    def initialise(self, cluster: Cluster, lock: int) -> None:
        """A cluster is made beside its place and moved there whole: a half-made one is never found."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise EmbeddedPostgresError(
                f"{self.folder} has files, but no PostgreSQL data. Move them away, or choose another DATA_DIR."
            )
        draft = self.data_dir / "postgres.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        own(draft, self.account)
        replace(cluster, folder=draft).initialise(keep_open=[lock])
        draft.rename(self.folder)

    def refuse_failed_start(self) -> None:
        """A server that ends before its first answer would do so again."""
        if self.process is not None and self.process.wait() != 0 and not self.url:
            said = last_lines(self.log.read_text(errors="replace"))
            raise EmbeddedPostgresError(
                f"PostgreSQL in {self.folder} ended at its start: {said}. Its log is {self.log}."
            )

    def answers(self) -> bool:
        """Whether the server takes statements; makes the database where it is not there."""
        sockets = socket_folder(self.data_dir, self.folder)
        major = int((self.folder / "PG_VERSION").read_text())
        result = psql(installed_programs(major), sockets, CREATE_DATABASE)
        self.refusal = last_lines(result.stderr)
        if result.returncode == 0:
            self.url = url_of(sockets, "user_service")
        return result.returncode == 0

    def leave(self) -> None:
        if self.use is not None:
            os.close(self.use)
            self.use = None
        last = self.locks.take("use")
        if last is not None:
            try:
                self.shut_down()
            finally:
                os.close(last)
        elif self.process is not None:
            self.process.returncode = 0  # it goes on under the other services; nobody here waits for it
        self.process = None

    def shut_down(self) -> None:
        """Fast shutdown, then an immediate one: what was committed is in the write-ahead log either way."""
        for request in (signal.SIGINT, signal.SIGQUIT):
            pid = self.postmaster()
            if pid is None:
                return
            with suppress(ProcessLookupError):
                os.kill(pid, request)
            if self.gone(within_seconds=STOP_SECONDS):
                discard_socket_folder(self.data_dir)
                return
        logger.warning("PostgreSQL in %s does not stop; it goes on until the next start", self.folder)

    def postmaster(self) -> int | None:
        """Its process id, if that is surely a server on this folder: the file may outlive the process."""
        if self.process is not None:
            return self.process.pid if self.process.poll() is None else None
        import psutil

        try:
            pid = int((self.folder / "postmaster.pid").read_text().split("\n", 1)[0])
            here = Path(psutil.Process(pid).cwd()) == self.folder.resolve()
        except (OSError, ValueError, psutil.Error):
            return None
        return pid if here else None

    def gone(self, *, within_seconds: float) -> bool:
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
        """Starts the server again when it has died: the service recovers without a restart."""
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
                pause = min(2 * pause, LONGEST_WATCH_SECONDS)
                logger.warning("PostgreSQL in %s has ended and can't be started: %s", self.folder, error)
