"""`user-service reindex`: writes the search terms of all users again, while the service runs."""

import asyncio
import sys
from collections.abc import Mapping

from user_service.bootstrap import Resources
from user_service.cli.database import describe_failure, open_database
from user_service.cli.progress import Progress, open_progress
from user_service.errors import CommandFailed, Unavailable
from user_service.settings import Settings


def run(environ: Mapping[str, str]) -> int:
    """Prints the number of users. Raises ConfigurationError, CommandFailed."""
    with open_database(environ) as settings, open_progress(sys.stderr) as bar:
        number = asyncio.run(write_terms(settings, bar))
    found = "Beginnings of words are found now." if settings.search_prefixes else "Whole words are found."
    print(f"The search terms of {number:,} users are written. {found}")
    return 0


async def write_terms(settings: Settings, bar: Progress) -> int:
    from user_service.users.reindexing import reindex

    resources = Resources(settings)
    try:
        await resources.verify()
        database = resources.open_services().database
        return await reindex(database, show=lambda seen: bar.show(seen, None, "users"))
    except Unavailable as error:
        raise CommandFailed(describe_failure(error)) from None
    finally:
        await resources.close()
