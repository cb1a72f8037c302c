"""Migrations: Alembic, up and down, one at a time even when several start at once."""

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
    """Brings the database of a libpq URI to a revision. Raises CommandFailed."""
    from alembic import command

    with explained():
        command.upgrade(alembic_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Takes the database of a libpq URI back to a revision; `base` is before the first. Raises CommandFailed."""
    from alembic import command

    with explained():
        command.downgrade(alembic_config(url), revision)


@contextmanager
def explained() -> Iterator[None]:
    """Turns what can go wrong with a database into CommandFailed. The server's messages here quote no row."""
    try:
        yield
    except Exception as error:
        reason = reason_for(error)
        if reason is None:
            raise
        raise CommandFailed(reason) from None


def reason_for(error: BaseException) -> str | None:
    import asyncpg
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, CommandError):
        return f"{error}. The revisions of this release go up to {head()}."
    if isinstance(error, DBAPIError) and error.orig is not None and error.orig.__cause__ is not None:
        return reason_for(error.orig.__cause__)
    if isinstance(error, asyncpg.PostgresError):
        said = f"{error.args[0]} ({type(error).__name__})"
        return f"PostgreSQL refused: {said}. Check DATABASE_URL and what its role may do."
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
    """The newest revision, without importing Alembic: files are named after their revisions, in order."""
    return max(path.stem.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))


def current(url: str) -> str | None:
    """The database's revision; None when it has none. Raises CommandFailed."""
    import asyncpg

    async def ask() -> str | None:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
        try:
            revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        except asyncpg.UndefinedTableError:
            return None
        finally:
            await connection.close()
        return revision

    with explained():
        return asyncio.run(ask())
