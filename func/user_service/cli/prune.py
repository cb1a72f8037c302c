"""`user-service prune`: removes rows past their retention. Several may run at once, and while the service runs."""

import asyncio
import sys
from collections.abc import Mapping

import asyncpg

from user_service.cli.database import open_database
from user_service.errors import CommandFailed, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres import retention
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings


def prune(environ: Mapping[str, str]) -> int:
    """Prints how many rows were removed. Raises ConfigurationError, CommandFailed."""
    try:
        with open_database(environ) as settings:
            removed = asyncio.run(run(settings))
    except DatabaseUnavailable as error:
        raise CommandFailed(f"{error.detail} Run `user-service doctor` for the reason.") from None
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        raise CommandFailed("The database is not migrated yet; run `user-service migrate`.") from None
    counts = ", ".join(f"{count} {name}" for name, count in removed.items())
    sys.stdout.write(f"removed {counts}\n")
    return 0


async def run(settings: Settings) -> dict[str, int]:
    pool = ReadPool(settings, Metrics(), size=1)
    try:
        return await retention.prune(pool.fetch, audit_days=settings.audit_retention_days)
    finally:
        await pool.close()
