"""File locks through which several services share one embedded PostgreSQL."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from user_service.postgres.embedded.wheel import EmbeddedPostgresError

MAX_WAIT_SECONDS = 120.0


class Locks:
    """Three locks in a folder. The kernel releases a lock with its last holder, also when a process is killed.

    `change` is held while a server is started or stopped. `use` is shared by all running services. `server` is
    inherited by every process of PostgreSQL, so it is free only after the last of them has ended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def share(self, name: str) -> int:
        """An open descriptor that holds the lock together with other holders."""
        descriptor = self.open(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def take(self, name: str) -> int | None:
        """An open descriptor that holds the lock exclusively; None if it is held already."""
        descriptor = self.open(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def open(self, name: str) -> int:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        if os.geteuid() == 0:  # the owner of DATA_DIR must be able to open what root creates there
            owner = self.folder.parent.stat()
            os.chown(self.folder, owner.st_uid, owner.st_gid)
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    @contextmanager
    def hold_change(self) -> Iterator[None]:
        """Waits for the lock `change` and holds it. Raises EmbeddedPostgresError after two minutes."""
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while (lock := self.take("change")) is None:
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"Another service has been starting or stopping PostgreSQL in {self.folder.parent} for "
                    f"{MAX_WAIT_SECONDS:.0f} s. Stop that service, or choose another DATA_DIR."
                )
            time.sleep(0.02)
        try:
            yield
        finally:
            os.close(lock)
