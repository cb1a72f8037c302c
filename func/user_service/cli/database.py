"""The database of a command: the one of DATABASE_URL, or else an embedded one."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Final

from user_service.errors import CommandFailed, ConfigurationError, DatabaseUnavailable, Unavailable
from user_service.observability.metrics import Metrics
from user_service.postgres import migrations
from user_service.postgres.failures import NOT_MIGRATED
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings

HINT: Final = "Run `user-service doctor` for the reason."


@contextmanager
def open_database(environ: Mapping[str, str]) -> Iterator[Settings]:
    """The settings of an environment, with a database. An embedded one is migrated, and runs while the block runs.

    Raises ConfigurationError.
    """
    settings = Settings.load(environ)
    if settings.database_url is not None:
        yield settings
        return
    from user_service.postgres.embedded.server import EmbeddedPostgres, EmbeddedPostgresError

    try:
        embedded = EmbeddedPostgres.start(settings.data_dir.expanduser())
    except EmbeddedPostgresError as error:
        raise ConfigurationError(str(error)) from None
    try:
        if migrations.current(embedded.url) != migrations.head():
            migrations.upgrade(embedded.url)
        yield replace(settings, database_url=embedded.url)
    finally:
        embedded.stop()


@asynccontextmanager
async def open_pool(settings: Settings, *, hint: str = HINT) -> AsyncIterator[ReadPool]:
    """One connection. Turns DatabaseUnavailable into CommandFailed, whose message ends with `hint`."""
    pool = ReadPool(settings, Metrics(), size=1)
    try:
        yield pool
    except DatabaseUnavailable as error:
        raise CommandFailed(describe_failure(error, hint=hint)) from None
    finally:
        await pool.close()


def describe_failure(error: Unavailable, *, hint: str = HINT) -> str:
    """What an error says, and the hint, unless the error has its remedy."""
    return error.detail if error.detail == NOT_MIGRATED else f"{error.detail.removesuffix('.')}. {hint}"
