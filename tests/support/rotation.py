"""A service whose secrets are files, which a test changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.application import Client, started
from support.secret_files import SecretFolder
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.secret_rotation import SecretFiles
from user_service.settings import Settings


@asynccontextmanager
async def replica(
    database_url: str, secrets: SecretFolder, *, seconds_between_searches: float = 1.0, **environ: str
) -> AsyncIterator[Client]:
    """A service over files of secrets that checks them when a test calls `check`."""
    given = {"DATABASE_URL": database_url, "SECRETS_RELOAD_SECONDS": "300", **secrets.environ, **environ}
    given.setdefault("DATA_DIR", str(secrets.folder.parent / "data"))
    files = SecretFiles(given, seconds_between_searches=seconds_between_searches)
    application = Application(Resources(Settings.load(given), find_keys=files.find_keys), files)
    async with started(application) as client:
        yield client


async def check(client: Client) -> dict[str, float]:
    """Has the service check its files; the number of times for each outcome so far."""
    await client.application.rotation.check()
    return {outcome: number for (outcome,), number in client.resources.metrics.secrets_reload.values.items()}
