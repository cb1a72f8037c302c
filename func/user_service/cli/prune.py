"""`user-service prune`: removes what is past its time. Any number may run at once, beside the service."""

import asyncio
import sys

import asyncpg

from user_service.errors import CommandFailed, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres import retention
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings


def prune(settings: Settings) -> int:
    """Says on standard output what it removed. Raises CommandFailed."""
    try:
        removed = asyncio.run(run(settings))
    except DatabaseUnavailable as error:
        raise CommandFailed(f"{error.detail} Look with `user-service doctor`.") from None
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
