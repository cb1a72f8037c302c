"""The chunks of an import: consecutive records that are applied, and counted, in one transaction."""

import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from user_service.idempotency.stored_responses import Links, StoredResponse
from user_service.postgres.session import Session
from user_service.postgres.statements import text
from user_service.users.batch.results import ItemResult, is_invalid
from user_service.users.imports.pipeline import ImportMoved, Turn
from user_service.users.imports.records import BadRecord, NumberedRecord
from user_service.users.model import DELETED
from user_service.users.schemas import ImportedUser

UNIQUE_FIELDS: Final = ("email", "username", "external_id", "id")
FIELDS: Final = frozenset(ImportedUser.model_fields)
# What an export writes, and a new user gets anew.
PASSED_OVER: Final = ("version", "updated_at", "deleted_at")
PASSED_OVER_WITH_ID: Final = (*PASSED_OVER, "id")

LOCK_POSITION: Final = text("SELECT position FROM imports WHERE id = :id FOR UPDATE")
FAILURE_COLUMNS: Final = {"record": "bigint", "line": "bigint", "code": "text", "detail": "text", "pointer": "text"}
STORE_FAILURES: Final = text(
    f"INSERT INTO import_failures (import_id, {', '.join(FAILURE_COLUMNS)}) SELECT :import_id, failures.*"  # noqa: S608
    f" FROM unnest({', '.join(f'CAST(:{name} AS {kind}[])' for name, kind in FAILURE_COLUMNS.items())}) failures"
)
MOVE_POSITION: Final = text(
    "UPDATE imports SET position = :position, line = :line, created = created + :created, updated = updated + :updated,"
    " skipped = skipped + :skipped, failed = failed + :failed, state = 'running', updated_at = now(),"
    " fingerprint = COALESCE(CAST(:fingerprint AS bytea), fingerprint) WHERE id = :id"
)


@dataclass(slots=True)
class Chunk:
    """Consecutive records of an import. `start` is the number of records before them."""

    import_id: UUID
    start: int
    records: Sequence[NumberedRecord]
    fingerprint: bytes
    keep_ids: bool = False
    # The users to create: for each, the number and the line of the record, from 1, and the record.
    users: Sequence[tuple[int, int, dict[str, Any]]] = field(init=False)
    # The number of records that an export has written of deleted users.
    deleted: int = field(init=False)
    keys: Set[str] = field(init=False)

    def __post_init__(self) -> None:
        readable = [
            (number, line, record)
            for number, (line, record) in enumerate(self.records, self.start + 1)
            if isinstance(record, dict)
        ]
        self.users = [entry for entry in readable if entry[2].get("status") != DELETED]
        self.deleted = len(readable) - len(self.users)
        for _, _, record in self.users:
            for name in PASSED_OVER if self.keep_ids else PASSED_OVER_WITH_ID:
                record.pop(name, None)
        self.keys = unique_keys([record for _, _, record in self.users])

    @property
    def line(self) -> int:
        """The line in which the last record begins."""
        return self.records[-1][0] if self.records else 0

    def failures(self, results: Sequence[ItemResult]) -> list[dict[str, Any]]:
        """Rows of import_failures: the number and the line of the record, and why; never the record."""
        rows = [
            self.failure(number, line, record.code, record.detail, field_pointer(record.field or ""))
            for number, (line, record) in enumerate(self.records, self.start + 1)
            if isinstance(record, BadRecord)
        ]
        for (number, line, _), result in zip(self.users, results, strict=True):
            if result["status"] == "failed":
                error = result["error"]
                path = error.get("pointer", "").partition("/data/")[2]
                rows.append(self.failure(number, line, error["code"], error["detail"], field_pointer(path)))
        return rows

    def failure(self, number: int, line: int, code: str, detail: str, pointer: str | None) -> dict[str, Any]:
        return {"record": number, "line": line, "code": code, "detail": detail, "pointer": pointer}


class ChunkTransaction:
    """A `TransactionHook` that moves the position of the import in the transaction that applies a chunk, or that would
    apply it in a dry run.
    """

    stores_all = True

    def __init__(self, chunk: Chunk, turn: Turn, *, on_conflict: str) -> None:
        self.chunk = chunk
        self.turn = turn
        self.merges = on_conflict == "update"

    async def before(self, session: Session) -> None:
        """Waits until the chunk may be applied. Raises ImportMoved."""
        await self.turn.start()
        if not self.turn.started_first:
            await self.lock_position(session)

    async def after(self, session: Session, response: StoredResponse, links: Links) -> None:
        """Moves the position and stores the failures, in the chunk's turn. Raises OutOfTurn, ImportMoved."""
        chunk = self.chunk
        await self.turn.finish(clean=all(map(self.is_clean, response.items)))
        if self.turn.started_first:
            await self.lock_position(session)
        failures = chunk.failures(response.items)
        if failures:
            columns = {name: [row[name] for row in failures] for name in FAILURE_COLUMNS}
            await session.execute(STORE_FAILURES, {"import_id": chunk.import_id, **columns})
        counts = Counter(result["status"] for result in response.items)
        values = {
            "id": chunk.import_id,
            "position": chunk.start + len(chunk.records),
            "line": chunk.line,
            "fingerprint": chunk.fingerprint if chunk.start == 0 else None,
            "failed": len(failures),
            "created": counts["created"],
            "updated": counts["updated"],
            "skipped": counts["skipped"] + chunk.deleted,
        }
        await session.execute(MOVE_POSITION, values)

    async def lock_position(self, session: Session) -> None:
        """Raises ImportMoved when the import is not where the chunk starts: another request is continuing it."""
        if (await session.execute(LOCK_POSITION, {"id": self.chunk.import_id})).scalar_one() != self.chunk.start:
            raise ImportMoved

    def is_clean(self, result: ItemResult) -> bool:
        """Whether a result does not depend on the users that exist. A merge can make a user invalid."""
        return result["status"] == "created" or (is_invalid(result) and not self.merges)


def unique_keys(records: Sequence[dict[str, Any]]) -> Set[str]:
    """The values of the unique fields as they are written. PostgreSQL detects other spellings of one address."""
    keys = {value for record in records for name in UNIQUE_FIELDS if isinstance(value := record.get(name), str)}
    for record in records:
        if isinstance(aliases := record.get("aliases"), list):
            keys.update(alias for alias in aliases if isinstance(alias, str))
    return keys


def field_pointer(path: str) -> str | None:
    """The pointer to the field of a path in a record, None for unknown names, which could be personal data: failures
    are kept for a month.
    """
    name = re.split("[/.]", path, maxsplit=1)[0]
    return f"/{name}" if name in FIELDS else None
