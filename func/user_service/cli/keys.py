"""`user-service keys`: makes an encryption key, or shows the key that users are found by (BLIND_INDEX_KEY)."""

import asyncio
import base64
from collections.abc import Mapping

from user_service.cli.database import open_database, open_pool
from user_service.encryption.key_registry import compare_keys
from user_service.encryption.keyring import Keyring, load_keys, new_encryption_key
from user_service.settings import Settings


def run(environ: Mapping[str, str], *, action: str) -> int:
    """Prints a new key for `new`, else the blind index key that the database was written with, in base64.

    Raises ConfigurationError, CommandFailed.
    """
    if action == "new":
        print(new_encryption_key())
        return 0
    with open_database(environ) as settings:
        keys = asyncio.run(load_checked_keys(settings))
    print(base64.b64encode(keys.blind_index).decode())
    return 0


async def load_checked_keys(settings: Settings) -> Keyring:
    keys = load_keys(settings)
    async with open_pool(settings, hint="The key is compared with the one that the database records.") as pool:
        await compare_keys(pool, keys)
    return keys
