"""`user-service migrate`: brings the database to a revision, and makes the coming months' partitions."""

import asyncio
from collections.abc import Mapping

from user_service.cli.database import open_database, open_pool
from user_service.errors import ConfigurationError
from user_service.postgres import migrations
from user_service.postgres.partitions import create_partitions
from user_service.settings import Settings


def run(environ: Mapping[str, str], *, to: str, down: bool, distribute: bool) -> int:
    """Prints the revision that the database is at then. Raises ConfigurationError, CommandFailed."""
    if down and to == "head":
        raise ConfigurationError("migrate --down needs --to REVISION; `--to base` removes every table.")
    if down and distribute:
        raise ConfigurationError("migrate --distribute goes with the newest revision, not with --down.")
    with open_database(environ) as settings:
        assert settings.database_url is not None
        if down:
            migrations.downgrade(settings.database_url, to)
        elif to == "head" and (newer := find_newer_revision(settings.database_url)):
            # A rollback: the job of the previous release runs again, and its service works with the schema as it is.
            print(
                f"The database is at revision {newer}, from a release after this one, whose newest is "
                f"{migrations.head()}. Nothing was changed."
            )
            return 0
        else:
            migrations.upgrade(settings.database_url, to)
            asyncio.run(make_partitions(settings))
        if distribute:
            distribute_tables(settings.database_url)
        print(f"The database is at revision {migrations.current(settings.database_url) or 'base'}.")
    return 0


def find_newer_revision(url: str) -> str | None:
    """The database's revision if it is one of a later release. Raises CommandFailed."""
    current = migrations.current(url)
    return current if current is not None and current > migrations.head() else None


def distribute_tables(url: str) -> None:
    from user_service.postgres.migrations.distribute import distribute

    with migrations.translate_failures():
        is_new = asyncio.run(distribute(url))
    print("The tables are distributed over the servers of Citus." if is_new else "The tables were distributed before.")


async def make_partitions(settings: Settings) -> None:
    async with open_pool(settings) as pool:
        await create_partitions(pool.fetch)
