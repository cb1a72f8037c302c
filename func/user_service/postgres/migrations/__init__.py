"""Runs Alembic migrations, up and down. Concurrent runs wait for each other."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from user_service.errors import CommandFailed

if TYPE_CHECKING:
    from alembic.config import Config

FOLDER: Final = Path(__file__).parent
CONNECT_SECONDS: Final = 10.0


def upgrade(url: str, revision: str = "head") -> None:
    """Migrates the database of a libpq URI up to a revision. Raises CommandFailed."""
    from alembic import command

    with translate_failures():
        command.upgrade(alembic_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Migrates the database of a libpq URI down to a revision; `base` is before the first. Raises CommandFailed."""
    from alembic import command

    with translate_failures():
        command.downgrade(alembic_config(url), revision)


@contextmanager
def translate_failures() -> Iterator[None]:
    """Turns a failure of the database into CommandFailed. The server's messages during a migration quote no row."""
    try:
        yield
    except Exception as error:
        reason = failure_reason(error)
        if reason is None:
            raise
        raise CommandFailed(reason) from None


def failure_reason(error: BaseException) -> str | None:
    import asyncpg
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, CommandError):
        return f"{error}. The revisions of this release go up to {head()}."
    if isinstance(error, DBAPIError) and error.orig is not None and error.orig.__cause__ is not None:
        return failure_reason(error.orig.__cause__)
    if isinstance(error, asyncpg.PostgresError):
        message = f"{error.args[0]} ({type(error).__name__})"
        return f"PostgreSQL refused: {message}. Check DATABASE_URL and the permissions of its role."
    if isinstance(error, OSError | ValueError | OverflowError | asyncpg.InterfaceError):
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

    async def fetch() -> str | None:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
        try:
            revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        except asyncpg.UndefinedTableError:
            return None
        finally:
            await connection.close()
        return revision

    with translate_failures():
        return asyncio.run(fetch())
