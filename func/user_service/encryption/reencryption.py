"""Sealing again what is under a former key, while the service goes on reading and writing.

A batch is one statement and so one transaction. Where a row stands is told by its token alone: after an end at any
moment, another run goes on with what is left.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from user_service.encryption.cipher import Cipher, DecryptionError, key_id_of
from user_service.encryption.key_registry import Retirement
from user_service.postgres.pool import ReadPool
from user_service.users.encrypted_columns import Sealed

UNKNOWN: Final = "?"
SHOWN_UNREADABLE: Final = 10
# Whoever is at work on a row that was left out will soon be done.
PAUSE_SECONDS: Final = 0.2
ESTIMATE: Final = "SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class WHERE oid = ANY($1::regclass[])"


@dataclass(slots=True)
class Round:
    """What one way through all rows came to. `left` were held or changed by others meanwhile; `unreadable` counts by
    key id what does not open, `examples` are some of their tables and keys.
    """

    seen: int = 0
    sealed: int = 0
    left: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


class Reencryption:
    """Every sealed row of these tables, `batch_size` at a time. `show` is told how many rows of how many are seen."""

    def __init__(
        self,
        pool: ReadPool,
        cipher: Cipher,
        tables: Sequence[Sealed],
        *,
        batch_size: int,
        show: Callable[[int, int | None], None],
    ) -> None:
        self.pool = pool
        self.cipher = cipher
        self.tables = tables
        self.batch_size = batch_size
        self.show = show
        self.total: int | None = None

    async def count(self) -> Counter[tuple[str, str]]:
        """How many rows there are by table and key id. Raises DatabaseUnavailable."""
        await self.estimate()
        counts: Counter[tuple[str, str]] = Counter()
        for table in self.tables:
            async for rows in self.pages(table, table.heads):
                counts.update((table.table, key_id_or_none(row[-1])) for row in rows)
                self.tell(counts.total())
        return counts

    async def run(self, retirement: Retirement) -> tuple[int, Round]:
        """Goes through all rows until none is left under a former key and none can come; the number of tokens that
        were sealed again, and the last round.

        Whatever was being written when the former keys were retired is written once `retirement` is over, so the last
        round begins after that. Raises DatabaseUnavailable.
        """
        sealed = 0
        while True:
            await self.estimate()
            remaining = await retirement.remaining_seconds()
            done = await self.round()
            sealed += done.sealed
            if remaining <= 0 and not done.left:
                return sealed, done
            await asyncio.sleep(max(PAUSE_SECONDS, await retirement.remaining_seconds()))

    async def round(self) -> Round:
        """Once through all rows."""
        done = Round()
        for table in self.tables:
            async for rows in self.pages(table, table.strangers, self.cipher.ring.prefix):
                done.seen += len(rows)
                if strangers := [row for row in rows if row[-1] is not None]:
                    await self.seal(table, strangers, done)
                self.tell(done.seen)
        return done

    async def pages(
        self, table: Sealed, statement: Callable[..., str], *parameters: object
    ) -> AsyncIterator[Sequence[Any]]:
        rows = await self.pool.fetch(statement(first=True), *parameters, self.batch_size)
        while rows:
            yield rows
            last = tuple(rows[-1])[:-1]
            rows = await self.pool.fetch(statement(first=False), *parameters, self.batch_size, *last)

    async def seal(self, table: Sealed, rows: Sequence[Any], done: Round) -> None:
        replaced = []
        for *key, before in map(tuple, rows):
            binding = table.binding(key)
            try:
                plaintext = self.cipher.open(before, purpose=table.purpose, user_id=binding)
            except DecryptionError:
                done.unreadable[key_id_or_none(before)] += 1
                if len(done.examples) < SHOWN_UNREADABLE:
                    done.examples.append(f"{table.table} {' '.join(map(shown, key))}")
                continue
            after = self.cipher.seal(plaintext, purpose=table.purpose, user_id=binding)
            replaced.append((*key, before, after))
        if replaced:
            written = len(await self.pool.fetch(table.replace, *map(list, zip(*replaced, strict=True))))
            done.sealed += written
            done.left += len(replaced) - written

    async def estimate(self) -> None:
        rows = await self.pool.fetch(ESTIMATE, [table.table for table in self.tables])
        self.total = rows[0][0] or None

    def tell(self, seen: int) -> None:
        self.show(seen, max(seen, self.total) if self.total is not None else None)


def shown(part: object) -> str:
    return part.hex() if isinstance(part, bytes) else str(part)


def key_id_or_none(token: bytes) -> str:
    try:
        return key_id_of(token)
    except DecryptionError:
        return UNKNOWN
