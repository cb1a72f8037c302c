"""Re-encrypts tokens of former keys under the active key, while the service continues to read and write.

A batch is one statement and so one transaction. The token of a row tells whether it is done, so a run that ended at any
moment is continued by the next one.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from user_service.encryption.cipher import Cipher, DecryptionError, parse_key_id
from user_service.encryption.encrypted_column import EncryptedColumn
from user_service.encryption.key_registry import Retirement
from user_service.postgres.distribution import DISTRIBUTED
from user_service.postgres.pool import ReadPool

UNKNOWN: Final = "?"
MAX_EXAMPLES: Final = 10
# Rows that another transaction had locked are tried again after this long.
LOCKED_ROWS_PAUSE_SECONDS: Final = 0.2
ESTIMATE: Final = "SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class WHERE oid = ANY($1::regclass[])"


@dataclass(slots=True)
class Round:
    """The result of one pass over all rows. `skipped` rows were locked or changed by other transactions; `unreadable`
    counts by key id the tokens that do not open, `examples` are some of their tables and keys.
    """

    seen: int = 0
    sealed: int = 0
    skipped: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


class Reencryption:
    """Re-encrypts `columns`, `batch_size` rows at a time.

    `show` is called with the number of rows seen so far and the estimated number of all rows.
    """

    def __init__(
        self,
        pool: ReadPool,
        cipher: Cipher,
        columns: Sequence[EncryptedColumn],
        *,
        batch_size: int,
        show: Callable[[int, int | None], None],
    ) -> None:
        self.pool = pool
        self.cipher = cipher
        self.columns = columns
        self.batch_size = batch_size
        self.show = show
        self.total: int | None = None

    async def count(self) -> Counter[tuple[str, str]]:
        """The number of rows by table and key id. Raises DatabaseUnavailable."""
        await self.estimate_total()
        counts: Counter[tuple[str, str]] = Counter()
        for column in self.columns:
            async for rows in self.pages(column.select_heads):
                counts.update((column.table, key_id_or_unknown(row[-1])) for row in rows)
                self.show_progress(counts.total())
        return counts

    async def run(self, retirement: Retirement) -> tuple[int, Round]:
        """Repeats rounds until no row is left under a former key and none can be added.

        Returns the number of tokens that were re-encrypted, and the last round. Replicas may write under a retired key
        until `retirement` is over, so the last round starts after that. Raises DatabaseUnavailable.
        """
        sealed = 0
        while True:
            await self.estimate_total()
            remaining = await retirement.remaining_seconds()
            done = await self.round()
            sealed += done.sealed
            if remaining <= 0 and not done.skipped:
                return sealed, done
            await asyncio.sleep(max(LOCKED_ROWS_PAUSE_SECONDS, await retirement.remaining_seconds()))

    async def round(self) -> Round:
        """One pass over all rows."""
        done = Round()
        for column in self.columns:
            async for rows in self.pages(column.select_former, self.cipher.ring.prefix):
                done.seen += len(rows)
                if former := [row for row in rows if row[-1] is not None]:
                    await self.reseal(column, former, done)
                self.show_progress(done.seen)
        return done

    async def pages(self, statement: Callable[..., str], *parameters: object) -> AsyncIterator[Sequence[Any]]:
        rows = await self.pool.fetch(statement(first=True), *parameters, self.batch_size)
        while rows:
            yield rows
            last = tuple(rows[-1])[:-1]
            rows = await self.pool.fetch(statement(first=False), *parameters, self.batch_size, *last)

    async def reseal(self, column: EncryptedColumn, rows: Sequence[Any], done: Round) -> None:
        replaced = []
        for *key, before in map(tuple, rows):
            binding = column.binding(key)
            try:
                plaintext = self.cipher.open(before, purpose=column.purpose, user_id=binding)
            except DecryptionError:
                done.unreadable[key_id_or_unknown(before)] += 1
                if len(done.examples) < MAX_EXAMPLES:
                    done.examples.append(f"{column.table} {' '.join(map(format_key_part, key))}")
                continue
            after = self.cipher.seal(plaintext, purpose=column.purpose, user_id=binding)
            replaced.append((*key, before, after))
        if replaced:
            is_distributed = column.table in DISTRIBUTED and await self.pool.is_distributed()
            statement = column.replace_waiting if is_distributed else column.replace
            written = len(await self.pool.fetch(statement, *map(list, zip(*replaced, strict=True))))
            done.sealed += written
            done.skipped += len(replaced) - written

    async def estimate_total(self) -> None:
        rows = await self.pool.fetch(ESTIMATE, [column.table for column in self.columns])
        self.total = rows[0][0] or None

    def show_progress(self, seen: int) -> None:
        self.show(seen, max(seen, self.total) if self.total is not None else None)


def format_key_part(part: object) -> str:
    return part.hex() if isinstance(part, bytes) else str(part)


def key_id_or_unknown(token: bytes) -> str:
    try:
        return parse_key_id(token)
    except DecryptionError:
        return UNKNOWN
