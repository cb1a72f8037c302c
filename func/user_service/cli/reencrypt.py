"""`user-service reencrypt`: encrypts all rows again that are not under the first key of ENCRYPTION_KEY.

Exit status: 0 no row is left under another key, 1 some rows can't be decrypted or the database failed, 2 wrong usage or
settings, 130 Ctrl-C. The same command resumes where an earlier one ended.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Final

from user_service.cli.database import open_database, open_pool
from user_service.cli.progress import Progress, open_progress
from user_service.encryption.key_registry import Retirement, compare_keys
from user_service.encryption.keyring import Keyring, load_keys
from user_service.encryption.reencryption import Reencryption, Round
from user_service.errors import EXIT_FAILED, ConfigurationError
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings
from user_service.users.encrypted_columns import ENCRYPTED_COLUMNS

MAX_BATCH_SIZE: Final = 10_000
RESUMES: Final = "The same command resumes where this one ended."


def run(environ: Mapping[str, str], *, batch_size: int, dry_run: bool, go_back: bool) -> int:
    """Encrypts rows again, `batch_size` at a time; only counts them with `dry_run`. Raises ConfigurationError."""
    if not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise ConfigurationError(f"--batch-size: expected a whole number from 1 to {MAX_BATCH_SIZE}")
    if dry_run:
        return count(environ, batch_size=batch_size)
    return reencrypt(environ, batch_size=batch_size, go_back=go_back)


def count(environ: Mapping[str, str], *, batch_size: int) -> int:
    """Prints the number of rows under each key. Raises ConfigurationError, CommandFailed."""
    with open_database(environ) as settings:
        with open_progress(sys.stderr) as bar:
            rows, active = asyncio.run(count_rows(settings, bar, batch_size))
        for (table, key_id), number in sorted(rows.items()):
            print(f"{table}: {number:,} rows under {key_id}{' (active)' if key_id == active else ''}")
        left = sum(number for (_, key_id), number in rows.items() if key_id != active)
        print(f"{left:,} rows of {rows.total():,} are to be encrypted again.")
    return 0


def reencrypt(environ: Mapping[str, str], *, batch_size: int, go_back: bool) -> int:
    """Encrypts the rows again and prints which keys can be removed. Raises ConfigurationError, CommandFailed."""
    with open_database(environ) as settings:
        keys = load_keys(settings)
        with open_progress(sys.stderr) as bar:
            number, last, free = asyncio.run(encrypt_again(settings, keys, bar, batch_size, go_back=go_back))
    print(f"{number:,} rows encrypted again of {last.seen:,}, under {keys.cipher.active_id}.")
    print_removable_keys([key_id for key_id in free if key_id in keys.ring], keys)
    if not last.unreadable:
        return 0
    print_unreadable_rows(last.unreadable, last)
    return EXIT_FAILED


async def count_rows(settings: Settings, bar: Progress, batch_size: int) -> tuple[Counter[tuple[str, str]], str]:
    """The number of rows by table and key id, and the id of the first key."""
    keys = load_keys(settings)
    async with open_pool(settings, hint=RESUMES) as pool:
        await compare_keys(pool, keys)
        return await make_reencryption(pool, keys, bar, batch_size).count(), next(iter(keys.ring))


async def encrypt_again(
    settings: Settings, keys: Keyring, bar: Progress, batch_size: int, *, go_back: bool
) -> tuple[int, Round, list[str]]:
    """The number of encrypted rows, the last round, and the ids of the keys that no row is encrypted with."""
    async with open_pool(settings, hint=RESUMES) as pool:
        retirement = Retirement(pool, keys, seconds=retirement_seconds(settings))
        await retirement.retire(go_back=go_back)
        number, last = await make_reencryption(pool, keys, bar, batch_size).run(retirement)
        free = [key_id for key_id in await retirement.retired() if not last.unreadable[key_id]]
        await retirement.end(free)
    return number, last, free


def make_reencryption(pool: ReadPool, keys: Keyring, bar: Progress, batch_size: int) -> Reencryption:
    def show(seen: int, total: int | None) -> None:
        bar.show(seen, total, "rows")

    return Reencryption(pool, keys.cipher, ENCRYPTED_COLUMNS, batch_size=batch_size, show=show)


def retirement_seconds(settings: Settings) -> float:
    """The time in which every replica notices that a key was retired, and ends its requests under it."""
    return 2 * settings.secrets_reload_seconds + settings.request_timeout


def print_removable_keys(free: list[str], keys: Keyring) -> None:
    for key_id in free:
        print(f"The key {key_id} can now be removed from ENCRYPTION_KEY.")
        if key_id == keys.derived_from:
            print(
                "Before that, set BLIND_INDEX_KEY to the output of `user-service keys blind-index`: it is derived from "
                f"{key_id}."
            )


def print_unreadable_rows(unreadable: Counter[str], last: Round) -> None:
    kinds = ", ".join(f"{number:,} under {key_id}" for key_id, number in sorted(unreadable.items()))
    print(
        f"{unreadable.total():,} rows can't be decrypted and are unchanged ({kinds}): "
        "add their key to ENCRYPTION_KEY if it is missing there.",
        *last.examples,
        sep="\n- ",
        file=sys.stderr,
    )
