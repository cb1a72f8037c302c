"""`user-service keys blind-index`: the key by which users are found, as BLIND_INDEX_KEY takes it."""

import asyncio
import base64
from collections.abc import Mapping

from user_service.encryption.key_registry import compare_keys
from user_service.encryption.keyring import Keyring, load_keys
from user_service.errors import CommandFailed, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres.pool import ReadPool
from user_service.server.run import database_of
from user_service.settings import Settings


def blind_index_key(environ: Mapping[str, str]) -> str:
    """The key that the database was written with, in base64. Raises ConfigurationError, CommandFailed."""
    with database_of(environ) as settings:
        keys = asyncio.run(settled_keys(settings))
    return base64.b64encode(keys.blind_index).decode()


async def settled_keys(settings: Settings) -> Keyring:
    keys = load_keys(settings)
    pool = ReadPool(settings, Metrics(), size=1)
    try:
        await compare_keys(pool, keys)
    except DatabaseUnavailable as error:
        raise CommandFailed(f"{error.detail} It knows which key it was written with.") from None
    finally:
        await pool.close()
    return keys
