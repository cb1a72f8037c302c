"""The chunks of an import: consecutive records that are applied, and counted, in one transaction."""

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from user_service.idempotency.stored_responses import Links, StoredResponse
from user_service.postgres.tables import import_failures
from user_service.users.batch.results import ItemResult, is_invalid
from user_service.users.imports.parsers import FIELDS, BadRecord, Record
from user_service.users.imports.pipeline import ImportMoved, Turn

UNIQUE_FIELDS: Final = ("email", "external_id")

LOCK_POSITION: Final = text("SELECT position FROM imports WHERE id = :id FOR UPDATE")
MOVE_POSITION: Final = text(
    "UPDATE imports SET position = :position, created = created + :created, updated = updated + :updated,"
    " skipped = skipped + :skipped, failed = failed + :failed, state = 'running', updated_at = now(),"
    " fingerprint = COALESCE(CAST(:fingerprint AS bytea), fingerprint) WHERE id = :id"
)


@dataclass(slots=True)
class Chunk:
    """Consecutive records of an import. `start` is the number of records before them."""

    import_id: UUID
    start: int
    records: Sequence[Record]
    fingerprint: bytes
    # The readable records, with their numbers, from 1.
    readable: Sequence[tuple[int, dict[str, Any]]] = field(init=False)
    keys: Set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.readable = [
            (number, record) for number, record in enumerate(self.records, self.start + 1) if isinstance(record, dict)
        ]
        self.keys = unique_keys([record for _, record in self.readable])

    def failures(self, results: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Rows of import_failures: the number of the record, and why; never the record."""
        rows = [
            self.failure(number, record.code, record.detail, None)
            for number, record in enumerate(self.records, self.start + 1)
            if isinstance(record, BadRecord)
        ]
        for (number, _), result in zip(self.readable, results, strict=True):
            if result["status"] == "failed":
                error = result["error"]
                path = error.get("pointer", "").partition("/data/")[2]
                rows.append(self.failure(number, error["code"], error["detail"], field_pointer(path)))
        return rows

    def failure(self, number: int, code: str, detail: str, pointer: str | None) -> dict[str, Any]:
        return {"import_id": self.import_id, "record": number, "code": code, "detail": detail, "pointer": pointer}


class ChunkTransaction:
    """A `TransactionHook` that moves the position of the import in the transaction that applies a chunk."""

    stores_all = False

    def __init__(self, chunk: Chunk, turn: Turn, *, on_conflict: str) -> None:
        self.chunk = chunk
        self.turn = turn
        self.merges = on_conflict == "update"

    async def before(self, session: AsyncSession) -> None:
        """Waits until the chunk may be applied. Raises ImportMoved."""
        await self.turn.start()
        if not self.turn.started_first:
            await self.lock_position(session)

    async def after(self, session: AsyncSession, response: StoredResponse, links: Links) -> None:
        """Moves the position and stores the failures, in the chunk's turn. Raises OutOfTurn, ImportMoved."""
        chunk = self.chunk
        await self.turn.finish(clean=all(map(self.is_clean, response.items)))
        if self.turn.started_first:
            await self.lock_position(session)
        failures = chunk.failures(response.items)
        if failures:
            await session.execute(insert(import_failures), failures)
        counts = Counter(result["status"] for result in response.items)
        values = {
            "id": chunk.import_id,
            "position": chunk.start + len(chunk.records),
            "fingerprint": chunk.fingerprint if chunk.start == 0 else None,
            "failed": len(failures),
            **{name: counts[name] for name in ("created", "updated", "skipped")},
        }
        await session.execute(MOVE_POSITION, values)

    async def lock_position(self, session: AsyncSession) -> None:
        """Raises ImportMoved when the import is not where the chunk starts: another request is continuing it."""
        if (await session.execute(LOCK_POSITION, {"id": self.chunk.import_id})).scalar_one() != self.chunk.start:
            raise ImportMoved

    def is_clean(self, result: ItemResult) -> bool:
        """Whether a result does not depend on the users that exist. A merge can make a user invalid."""
        return result["status"] == "created" or (is_invalid(result) and not self.merges)


def unique_keys(records: Iterable[dict[str, Any]]) -> Set[str]:
    """The values of the unique fields as they are written. PostgreSQL detects other spellings of one address."""
    return {value for record in records for name in UNIQUE_FIELDS if isinstance(value := record.get(name), str)}


def field_pointer(path: str) -> str | None:
    """The pointer to the field of a path in a record, None for unknown names, which could be personal data: failures
    are kept for a month.
    """
    name = path.partition("/")[0]
    return f"/{name}" if name in FIELDS else None
