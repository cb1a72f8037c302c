"""`user-service prune`: removes rows past their retention. Several may run at once, and while the service runs."""

import asyncio
from collections.abc import Mapping

from user_service.cli.database import open_database, open_pool
from user_service.postgres import retention
from user_service.settings import Settings


def run(environ: Mapping[str, str]) -> int:
    """Prints how many rows were removed. Raises ConfigurationError, CommandFailed."""
    with open_database(environ) as settings:
        removed = asyncio.run(remove_rows(settings))
    print("removed " + ", ".join(f"{count} {name}" for name, count in removed.items()))
    return 0


async def remove_rows(settings: Settings) -> dict[str, int]:
    async with open_pool(settings, hint="Run `user-service doctor` for the reason.") as pool:
        return await retention.prune(pool.fetch, audit_days=settings.audit_retention_days)
