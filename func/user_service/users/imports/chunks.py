"""The chunks of an import, and the order in which they are applied.

Each chunk's effect is committed after that of the one before it, and is what it would have been had it begun then. But
PostgreSQL works on two at once: the next chunk goes ahead of its turn, and its transaction waits for it at the end. It
stands only where it can't have mattered who came first. So one that has an e-mail address or an external id in common
with the chunk before waits for its turn to begin, and one that has met somebody is undone, and done again in its turn.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final
from uuid import UUID

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from user_service.errors import Conflict, Contended
from user_service.idempotency.requests import StoredResponse
from user_service.idempotency.stored_responses import Links
from user_service.postgres.tables import import_failures
from user_service.users.batch.results import ItemResult, is_wrong
from user_service.users.imports.parsers import FIELDS, BadRecord, Record

# Chunks go ahead after so many in a row that met nobody: in a file of known users they would be undone again and again.
CLEAN_CHUNKS: Final = 3
UNIQUE: Final = ("email", "external_id")
# The chunk before may wait in PostgreSQL for one that went ahead, itself or by way of somebody else's transaction. That
# is a deadlock which PostgreSQL can't see. It looks for its own after a second too; a lock is waited for for three.
PATIENCE_SECONDS: Final = 1.0

HOLD: Final = text("SELECT position FROM imports WHERE id = :id FOR UPDATE")
MOVE: Final = text(
    "UPDATE imports SET position = :position, created = created + :created, updated = updated + :updated,"
    " skipped = skipped + :skipped, failed = failed + :failed, state = 'running', updated_at = now(),"
    " fingerprint = COALESCE(CAST(:fingerprint AS bytea), fingerprint) WHERE id = :id"
)


class ImportMoved(Conflict):
    code, title = "import_in_progress", "Somebody else is going on with this import"


class OutOfTurn(Contended):
    """A chunk that went ahead must be done again in its turn."""


@dataclass(slots=True)
class ImportPipeline:
    """How an import goes: how many chunks in a row met nobody, and where one has failed."""

    merges: bool = False
    smooth: int = CLEAN_CHUNKS
    stopped_at: float = inf

    def meets_nobody(self, result: ItemResult) -> bool:
        """Whether an outcome is the same whoever is there already. What was merged may not fit the schema either."""
        return result["status"] == "created" or (is_wrong(result) and not self.merges)


@dataclass(slots=True)
class Chunk:
    """A `TransactionHook` over consecutive records of an import. `start` is the number of records before them."""

    id: UUID
    start: int
    records: Sequence[Record]
    fingerprint: bytes
    # The chunk before the one before, and the one before, have ended.
    opening: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    course: ImportPipeline = field(default_factory=ImportPipeline)
    # The readable records, with their numbers, from 1.
    good: Sequence[tuple[int, dict[str, Any]]] = field(init=False)
    keys: Set[str] = field(init=False)
    ahead: bool = False
    keeps_all: bool = False

    def __post_init__(self) -> None:
        self.good = [
            (number, record) for number, record in enumerate(self.records, self.start + 1) if isinstance(record, dict)
        ]
        self.keys = keys_of([record for _, record in self.good])

    def lead(self, *, merges: bool) -> None:
        """Is the first of its import to be applied; with `merges`, known users are changed."""
        self.course = ImportPipeline(merges)
        self.opening.set()
        self.turn.set()

    def follow(self, before: "Chunk") -> None:
        """Comes after another chunk of its import."""
        self.opening, self.turn, self.course = before.turn, before.ended, before.course
        self.ahead = self.keys.isdisjoint(before.keys)

    def end(self, applying: "asyncio.Task[None]") -> None:
        """Gives the turn to the next chunk. There is nothing to do for those behind one that has failed."""
        if applying.cancelled() or applying.exception() is not None:
            self.course.stopped_at = min(self.course.stopped_at, self.start)
        self.ended.set()

    async def claim(self, session: AsyncSession) -> None:
        """Waits until it may begin. In its turn it holds the import. Raises ImportMoved."""
        await self.opening.wait()
        self.check_course()
        self.ahead = self.ahead and self.course.smooth >= CLEAN_CHUNKS and not self.turn.is_set()
        if not self.ahead:
            await self.turn.wait()
            await self.hold(session)

    def check_course(self) -> None:
        if self.start > self.course.stopped_at:
            raise ImportMoved

    async def hold(self, session: AsyncSession) -> None:
        """Raises ImportMoved when the import does not stand where the chunk begins, or goes on with somebody else."""
        self.check_course()
        if (await session.execute(HOLD, {"id": self.id})).scalar_one() != self.start:
            raise ImportMoved

    async def keep(self, session: AsyncSession, answer: StoredResponse, links: Links) -> None:
        """Moves the import on, and writes down what failed. Raises OutOfTurn when it went ahead and must not stand."""
        failures = self.failures(answer.items)
        met_nobody = all(map(self.course.meets_nobody, answer.items))
        if not met_nobody:
            self.course.smooth = 0
        if self.ahead:
            await self.take_turn(met_nobody=met_nobody)
            await self.hold(session)
        self.course.smooth += met_nobody
        if failures:
            await session.execute(insert(import_failures), failures)
        counts = Counter(result["status"] for result in answer.items)
        moved = {
            "id": self.id,
            "position": self.start + len(self.records),
            "fingerprint": self.fingerprint if self.start == 0 else None,
            "failed": len(failures),
            **{name: counts[name] for name in ("created", "updated", "skipped")},
        }
        await session.execute(MOVE, moved)

    async def take_turn(self, *, met_nobody: bool) -> None:
        """Waits for its turn with all done. Raises OutOfTurn, after which it is done again in its turn."""
        self.ahead = False
        if not met_nobody:
            raise OutOfTurn
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.turn.wait()
        except TimeoutError:
            raise OutOfTurn from None

    def failures(self, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of import_failures: where, and why; never the record."""
        rows = [
            self.failure(number, record.code, record.detail, None)
            for number, record in enumerate(self.records, self.start + 1)
            if isinstance(record, BadRecord)
        ]
        for (number, _), result in zip(self.good, results, strict=True):
            if result["status"] == "failed":
                error = result["error"]
                place = error.get("pointer", "").partition("/data/")[2]
                rows.append(self.failure(number, error["code"], error["detail"], field_of(place)))
        return rows

    def failure(self, number: int, code: str, detail: str, field: str | None) -> dict[str, Any]:
        return {"import_id": self.id, "record": number, "code": code, "detail": detail, "pointer": field}


def keys_of(records: Iterable[dict[str, Any]]) -> Set[str]:
    """What the users want for themselves alone, at a glance: other spellings of one address are seen by PostgreSQL."""
    return {value for record in records for name in UNIQUE if isinstance(value := record.get(name), str)}


def field_of(place: str) -> str | None:
    """The field that a place in a record is in. Names that no schema has are the sender's and could be anything:
    what is kept for a month must not hold them.
    """
    field = place.partition("/")[0]
    return f"/{field}" if field in FIELDS else None
