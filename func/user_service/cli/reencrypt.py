"""`user-service reencrypt`: seals everything again that is not under the first key of ENCRYPTION_KEY.

Exit status: 0 nothing is left under another key, 1 something is that does not open, or the database failed, 2 wrong
usage or settings, 130 stopped by Ctrl-C. The same command goes on where an earlier one ended.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from user_service.cli.database import open_database
from user_service.cli.progress import Progress, progress_on
from user_service.encryption.key_registry import Retirement, compare_keys
from user_service.encryption.keyring import Keyring, load_keys
from user_service.encryption.reencryption import Reencryption, Round
from user_service.errors import EXIT_FAILED, CommandFailed, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres.pool import ReadPool
from user_service.settings import Settings
from user_service.users.encrypted_columns import ENCRYPTED_COLUMNS


def count(environ: Mapping[str, str], *, batch_size: int) -> int:
    """Prints how many rows are under which key. Raises ConfigurationError, CommandFailed."""
    with open_database(environ) as settings:
        with progress_on(sys.stderr) as bar:
            rows, active = asyncio.run(count_rows(settings, bar, batch_size))
        for (table, key_id), number in sorted(rows.items()):
            print(f"{table}: {number:,} rows under {key_id}{' (active)' if key_id == active else ''}")
        left = sum(number for (_, key_id), number in rows.items() if key_id != active)
        print(f"{left:,} rows of {rows.total():,} are to be sealed again.")
    return 0


def reencrypt(environ: Mapping[str, str], *, batch_size: int, go_back: bool) -> int:
    """Raises ConfigurationError, CommandFailed."""
    with open_database(environ) as settings:
        keys = load_keys(settings)
        with progress_on(sys.stderr) as bar:
            number, last, free = asyncio.run(seal_again(settings, keys, bar, batch_size, go_back=go_back))
    print(f"{number:,} rows sealed again; {last.seen:,} rows seen, under {keys.cipher.active_id}.")
    tell_what_can_go([key_id for key_id in free if key_id in keys.ring], keys)
    if not last.unreadable:
        return 0
    tell_what_is_left(last.unreadable, last)
    return EXIT_FAILED


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[ReadPool]:
    pool = ReadPool(settings, Metrics(), size=1)
    try:
        yield pool
    except DatabaseUnavailable as error:
        raise CommandFailed(f"{error.detail} The same command goes on where this one ended.") from None
    finally:
        await pool.close()


async def count_rows(settings: Settings, bar: Progress, batch_size: int) -> tuple[Counter[tuple[str, str]], str]:
    """The number of rows by table and key id, and the id of the first key."""
    keys = load_keys(settings)
    async with opened(settings) as pool:
        await compare_keys(pool, keys)
        return await work_on(pool, keys, bar, batch_size).count(), next(iter(keys.ring))


async def seal_again(
    settings: Settings, keys: Keyring, bar: Progress, batch_size: int, *, go_back: bool
) -> tuple[int, Round, list[str]]:
    """How many tokens were sealed again, the last round, and the ids of the keys that nothing is sealed under."""
    async with opened(settings) as pool:
        retirement = Retirement(pool, keys, seconds=retirement_seconds(settings))
        await retirement.retire(go_back=go_back)
        number, last = await work_on(pool, keys, bar, batch_size).run(retirement)
        free = [key_id for key_id in await retirement.retired() if not last.unreadable[key_id]]
        await retirement.end(free)
    return number, last, free


def work_on(pool: ReadPool, keys: Keyring, bar: Progress, batch_size: int) -> Reencryption:
    def show(seen: int, total: int | None) -> None:
        bar.show(seen, total, "rows")

    return Reencryption(pool, keys.cipher, ENCRYPTED_COLUMNS, batch_size=batch_size, show=show)


def retirement_seconds(settings: Settings) -> float:
    """How long a replica may take to notice that a key was retired, and to end what it does under it."""
    return 2 * settings.secrets_reload_seconds + settings.request_timeout


def tell_what_can_go(free: list[str], keys: Keyring) -> None:
    for key_id in free:
        print(f"The key {key_id} can now be removed from ENCRYPTION_KEY.")
        if key_id == keys.derived_from:
            print(
                "Before that, set BLIND_INDEX_KEY to what `user-service keys blind-index` prints: it is derived from "
                f"{key_id}."
            )


def tell_what_is_left(unreadable: Counter[str], last: Round) -> None:
    kinds = ", ".join(f"{number:,} under {key_id}" for key_id, number in sorted(unreadable.items()))
    print(
        f"{unreadable.total():,} rows do not open and were left as they are ({kinds}): "
        "add their key to ENCRYPTION_KEY if it is missing there.",
        *last.examples,
        sep="\n- ",
        file=sys.stderr,
    )
