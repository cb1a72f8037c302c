"""`user-service prune`: removes rows past their retention. Several may run at once, and while the service runs."""

import asyncio
from collections.abc import Mapping

from user_service.bootstrap import Resources
from user_service.cli.database import describe_failure, open_database, open_pool
from user_service.errors import CommandFailed, Unavailable
from user_service.postgres import retention
from user_service.settings import Settings


def run(environ: Mapping[str, str]) -> int:
    """Prints how many rows were removed. Raises ConfigurationError, CommandFailed."""
    with open_database(environ) as settings:
        removed = asyncio.run(remove_rows(settings))
    print("removed " + ", ".join(f"{count} {name}" for name, count in removed.items()))
    return 0


async def remove_rows(settings: Settings) -> dict[str, int]:
    removed = {"deleted users": await purge_users(settings)} if settings.deleted_retention_days else {}
    async with open_pool(settings) as pool:
        return removed | await retention.prune(pool.fetch, audit_days=settings.audit_retention_days)


async def purge_users(settings: Settings) -> int:
    """Purges users that were deleted long ago; returns their number. Raises ConfigurationError, CommandFailed."""
    from user_service.users.deleted_retention import purge_deleted

    resources = Resources(settings)
    try:
        await resources.verify()
        resources.cache.open()
        return await purge_deleted(
            resources.open_services().database,
            days=settings.deleted_retention_days,
            actor_names=resources.actor_names,
        )
    except Unavailable as error:
        raise CommandFailed(describe_failure(error)) from None
    finally:
        await resources.close()
