"""`user-service prune`: removes rows past their retention. Several may run at once, and while the service runs."""

import asyncio
from collections.abc import Mapping

import asyncpg

from user_service.cli.database import open_database, open_pool
from user_service.errors import CommandFailed
from user_service.postgres import retention
from user_service.settings import Settings


def run(environ: Mapping[str, str]) -> int:
    """Prints how many rows were removed. Raises ConfigurationError, CommandFailed."""
    try:
        with open_database(environ) as settings:
            removed = asyncio.run(remove_rows(settings))
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        raise CommandFailed("The database is not migrated yet; run `user-service migrate`.") from None
    print("removed " + ", ".join(f"{count} {name}" for name, count in removed.items()))
    return 0


async def remove_rows(settings: Settings) -> dict[str, int]:
    async with open_pool(settings, hint="Run `user-service doctor` for the reason.") as pool:
        return await retention.prune(pool.fetch, audit_days=settings.audit_retention_days)
