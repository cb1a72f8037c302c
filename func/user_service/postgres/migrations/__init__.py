"""Runs Alembic migrations, up and down. Concurrent runs wait for each other."""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from user_service.errors import CommandFailed
from user_service.observability.logging import log

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER: Final = Path(__file__).parent
CONNECT_SECONDS: Final = 10.0
# While a migration waits for a table, every statement on that table waits behind it: it gives up and tries again.
LOCK_SECONDS: Final = 3
LOCK_PAUSE_SECONDS: Final = 2.0
LOCK_ATTEMPTS: Final = 12
# A migration takes as long as it needs, whatever timeouts the role has for the service behind a pooler.
LIFT_TIMEOUTS: Final = tuple(
    f"SET LOCAL {name} = 0" for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
)


def upgrade(url: str, revision: str = "head", *, lock_attempts: int = LOCK_ATTEMPTS) -> None:
    """Migrates the database of a libpq URI up to a revision. Raises CommandFailed."""
    from alembic import command

    retry_locks(url, lambda: command.upgrade(alembic_config(url), revision), attempts=lock_attempts)


def downgrade(url: str, revision: str, *, lock_attempts: int = LOCK_ATTEMPTS) -> None:
    """Migrates the database of a libpq URI down to a revision; `base` is before the first. Raises CommandFailed."""
    from alembic import command

    retry_locks(url, lambda: command.downgrade(alembic_config(url), revision), attempts=lock_attempts)


def retry_locks(url: str, migrate: Callable[[], None], *, attempts: int) -> None:
    """Runs a migration, and again after a pause when a lock was not free in time. Raises CommandFailed."""
    from user_service.postgres.migrations.locks import describe_holders

    for attempt in range(1, attempts + 1):
        try:
            with translate_failures():
                migrate()
        except LockHeld:
            with translate_failures():
                holders = asyncio.run(describe_holders(url, seconds=CONNECT_SECONDS))
            if attempt == attempts:
                raise CommandFailed(
                    f"The migration could not lock a table in {attempt} attempts of {LOCK_SECONDS} s. Nothing was "
                    f"changed. The lock is held by {holders}. Wait for it to end, or end it with "
                    "`SELECT pg_terminate_backend(PROCESS)`, and run the migration again."
                ) from None
            log.warning("the migration waits for a lock and tries again", extra={"held_by": holders})
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return


class LockHeld(CommandFailed):
    """A lock was not free within `LOCK_SECONDS`; the transaction was rolled back."""


@contextmanager
def translate_failures() -> Iterator[None]:
    """Turns a failure of the database into CommandFailed. The server's messages during a migration quote no row."""
    try:
        yield
    except Exception as error:
        reason = failure_reason(error)
        if reason is None:
            raise
        if is_lock_timeout(error):
            raise LockHeld(reason) from None
        raise CommandFailed(reason) from None


def is_lock_timeout(error: BaseException) -> bool:
    import asyncpg

    origin = getattr(getattr(error, "orig", None), "__cause__", None) or error
    return isinstance(origin, asyncpg.LockNotAvailableError)


def failure_reason(error: BaseException) -> str | None:
    import asyncpg
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    from user_service.postgres.failures import ExplainedFailure, describe_failure

    if isinstance(error, CommandError):
        return f"{error}. The revisions of this release go up to {head()}."
    if isinstance(error, DBAPIError) and error.orig is not None and error.orig.__cause__ is not None:
        return failure_reason(error.orig.__cause__)
    if isinstance(error, ssl.SSLError | ExplainedFailure):
        return describe_failure(error)
    if isinstance(error, asyncpg.PostgresError):
        message = f"{error.args[0]} ({type(error).__name__})"
        return f"PostgreSQL refused: {message}. Check DATABASE_URL and the permissions of its role."
    if isinstance(error, OSError | ValueError | OverflowError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return f"PostgreSQL could not be reached ({type(error).__name__}). Check DATABASE_URL and the network."
    return None


def alembic_config(url: str) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def head() -> str:
    """The newest revision, without an import of Alembic: the file names start with the revisions, in order."""
    return max(path.stem.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def current(url: str) -> str | None:
    """The database's revision; None when it has none. Raises CommandFailed."""
    import asyncpg

    from user_service.postgres.connector import connect_once

    async def fetch() -> str | None:
        connection = await connect_once({"dsn": url, "timeout": CONNECT_SECONDS})
        try:
            revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        except asyncpg.UndefinedTableError:
            return None
        finally:
            await connection.close()
        return revision

    with translate_failures():
        return asyncio.run(fetch())
