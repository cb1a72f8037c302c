"""Runs imports: users from a stream of any length, in chunks of 1,000, each chunk and its progress in one transaction.

The position of an import is the number of records that are done. To continue an import, the caller sends the same
records from the start; those up to the position are skipped. A chunk is applied only when it starts at the position, so
two requests that continue one import at once can't apply a record twice.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from user_service.errors import IdempotencyKeyReused, NotFound, ServiceError, ValidationFailed
from user_service.postgres.retention import interval
from user_service.postgres.session import Row
from user_service.postgres.statements import Statement, text
from user_service.users.batch.bodies import CreateBatch
from user_service.users.batch.runner import BatchRunner
from user_service.users.change_log import Origin
from user_service.users.imports.chunks import Chunk, ChunkTransaction
from user_service.users.imports.pipeline import TURN_TIMEOUT_SECONDS, ImportMoved, Pipeline, Turn
from user_service.users.imports.records import NumberedRecord
from user_service.values.ids import new_id

CHUNK_RECORDS: Final = 1000
# A running import whose position has not moved for this time has lost its caller.
SILENCE: Final = timedelta(seconds=60)
FINGERPRINT_PREFIX: Final = b"import"
FAILURES_PAGE: Final = 1000

# A row of imports.
Import = Mapping[str, Any]

# The state of an import whose process was killed is still `running` in the table.
SELECT_IMPORTS: Final = (
    "SELECT id, actor, format, on_conflict, position, created, updated, skipped, failed, started_at, updated_at,"  # noqa: S608
    " finished_at, line, keep_ids, dry_run,"
    f" CASE WHEN state = 'running' AND updated_at < now() - {interval(SILENCE)} THEN 'interrupted' ELSE state END"
    " AS state FROM imports"
)
BY_ID: Final = text(f"{SELECT_IMPORTS} WHERE id = :id")
BY_KEY: Final = text(f"{SELECT_IMPORTS} WHERE key = :key")
LATEST: Final = text(f"{SELECT_IMPORTS} ORDER BY id DESC LIMIT :limit")
INSERT: Final = text(
    "INSERT INTO imports (id, actor, key, state, format, on_conflict, keep_ids, dry_run)"
    " VALUES (:id, :actor, :key, 'running', :format, :on_conflict, :keep_ids, :dry_run)"
    " ON CONFLICT DO NOTHING RETURNING *"
)
WHOLE_BY_KEY: Final = text("SELECT * FROM imports WHERE key = :key")
# A request that fails does not change an import that another request has completed.
SET_STATE: Final = text(
    "UPDATE imports SET state = CAST(:state AS text), updated_at = now(),"
    " finished_at = CASE WHEN CAST(:state AS text) = 'completed' THEN now() END WHERE id = :id AND state <> 'completed'"
)
FAILURES: Final = text(
    "SELECT record, line, pointer, code, detail FROM import_failures WHERE import_id = :id AND record > :last"  # noqa: S608
    f" ORDER BY record LIMIT {FAILURES_PAGE}"
)


class ImportDiffers(IdempotencyKeyReused):
    code, title = "import_differs", "The records differ from those that the import started with"


class ImportOptions(NamedTuple):
    """What an import does with its records. A dry run changes no user."""

    format: str
    on_conflict: str = "fail"
    keep_ids: bool = False
    dry_run: bool = False


class ImportRunner:
    """Starts, continues and reads imports."""

    def __init__(self, batches: BatchRunner, *, turn_timeout_seconds: float = TURN_TIMEOUT_SECONDS) -> None:
        self.batches = batches
        self.turn_timeout_seconds = turn_timeout_seconds
        self.database = batches.database
        self.keys = batches.database.keys

    async def begin(self, origin: Origin, options: ImportOptions, *, key: str | None) -> Import:
        """A new import, or the one that this principal started with the same key.

        Raises IdempotencyKeyReused when that one has other options.
        """
        values = {
            "id": new_id(),
            "actor": origin.actor,
            "key": self.key_hash(origin.actor, key) if key is not None else None,
            **options._asdict(),
        }
        async with self.database.transaction() as session:
            inserted: Row | None = (await session.execute(INSERT, values)).one_or_none()
            row: Import = inserted or (await session.execute(WHOLE_BY_KEY, values)).one()
        if options != tuple(row[name] for name in options._fields):
            raise IdempotencyKeyReused(f"This key belongs to an import with another {' or '.join(options._fields)}.")
        return row

    async def find(self, import_id: UUID) -> Import:
        """Raises NotFound."""
        async with self.database.transaction() as session:
            rows = await session.execute(BY_ID, {"id": import_id})
            row: Import | None = rows.one_or_none()
        if row is None:
            raise NotFound("There is no import with this id.")
        return row

    async def latest(self, limit: int) -> Sequence[Import]:
        """The newest imports first."""
        return await self.select(LATEST, {"limit": limit})

    async def find_by_key(self, actor: str, key: str) -> Sequence[Import]:
        """The import that this principal started with this key, if there is one."""
        return await self.select(BY_KEY, {"key": self.key_hash(actor, key)})

    async def select(self, statement: Statement, values: Mapping[str, object]) -> Sequence[Import]:
        async with self.database.transaction() as session:
            rows: Sequence[Import] = await session.execute(statement, values)
        return rows

    async def failures(self, import_id: UUID) -> AsyncGenerator[bytes]:
        """The failures in the order of the records, as NDJSON, a piece at a time."""
        last = 0
        while True:
            async with self.database.transaction() as session:
                rows = await session.execute(FAILURES, {"id": import_id, "last": last})
            if not rows:
                return
            last = rows[-1]["record"]
            yield b"".join(map(failure_line, rows))

    async def run(self, started: Import, records: AsyncIterator[Sequence[NumberedRecord]], origin: Origin) -> None:
        """Continues an import from its position, with all its records from the start, and completes it.

        Raises ImportMoved, ImportDiffers, and what the stream raises: then the import is at the end of its last chunk.
        """
        if started["state"] == "completed":
            await self.check_same(started, records)
            return

        async def apply(chunk: Chunk, turn: Turn) -> None:
            await self.apply(chunk, turn, started, origin)

        try:
            await Pipeline(turn_timeout_seconds=self.turn_timeout_seconds).run(self.chunks(started, records), apply)
        except BaseException as error:
            if not isinstance(error, ImportMoved | ImportDiffers):
                await self.stop(started["id"], "failed" if isinstance(error, ValidationFailed) else "interrupted")
            raise
        await self.set_state(started["id"], "completed")

    async def check_same(self, started: Import, records: AsyncIterator[Sequence[NumberedRecord]]) -> None:
        """Raises ImportDiffers when a completed import did not start with these records, or had fewer."""
        async for _ in self.chunks(started, records):
            raise ImportDiffers("The import with this key is complete and had fewer records. Use another key.")

    async def stop(self, import_id: UUID, state: str) -> None:
        """Sets the state of an import that has ended early; where that fails, it is `interrupted` after `SILENCE`."""
        with suppress(ServiceError):
            await self.set_state(import_id, state)

    async def chunks(self, started: Import, records: AsyncIterator[Sequence[NumberedRecord]]) -> AsyncIterator[Chunk]:
        """The records that are not done, in chunks that start at the position of the import."""
        start = 0
        held: list[NumberedRecord] = []
        async for some in records:
            held += some
            while len(held) >= CHUNK_RECORDS:
                if (chunk := self.chunk(started, start, held[:CHUNK_RECORDS])) is not None:
                    yield chunk
                start += CHUNK_RECORDS
                del held[:CHUNK_RECORDS]
        if held and (chunk := self.chunk(started, start, held)) is not None:
            yield chunk
        if (count := start + len(held)) < started["position"]:
            raise ImportDiffers(
                f"The file has {count:,} records, and {started['position']:,} of this import are done."
                " Send the file that it started with, or another file with another key."
            )

    def chunk(self, started: Import, start: int, records: Sequence[NumberedRecord]) -> Chunk | None:
        """The records of a chunk that are not done, or None when all are. Raises ImportDiffers."""
        fingerprint = self.fingerprint(records) if start == 0 else b""
        if start == 0 and started["fingerprint"] not in (None, fingerprint):
            raise ImportDiffers(
                "Send the file that this import started with, from its first byte, or another file with another key."
            )
        done = max(0, min(started["position"] - start, len(records)))
        rest = records[done:]
        return Chunk(started["id"], start + done, rest, fingerprint, started["keep_ids"]) if rest else None

    async def apply(self, chunk: Chunk, turn: Turn, started: Import, origin: Origin) -> None:
        items: list[Any] = [{"data": record} for _, _, record in chunk.users]
        on_conflict, dry_run = started["on_conflict"], started["dry_run"]
        batch = CreateBatch.model_construct(mode="partial", dry_run=dry_run, on_conflict=on_conflict, items=items)
        hook = ChunkTransaction(chunk, turn, on_conflict=on_conflict)
        await self.batches.import_users(batch, origin, hook=hook)

    async def set_state(self, import_id: UUID, state: str) -> None:
        async with self.database.transaction() as session:
            await session.execute(SET_STATE, {"id": import_id, "state": state})

    def key_hash(self, actor: str, key: str) -> bytes:
        return self.keys.idempotency.digest(orjson.dumps([actor, key]))

    def fingerprint(self, records: Sequence[NumberedRecord]) -> bytes:
        """Identifies the first records of a file; a keyed hash, since they are personal data."""
        content = FINGERPRINT_PREFIX + orjson.dumps([record for _, record in records])
        return self.keys.idempotency.digest(content)


def failure_line(row: Any) -> bytes:
    line = {
        "record": row["record"],
        "line": row["line"],
        "field": row["pointer"] and row["pointer"].removeprefix("/"),
        "code": row["code"],
        "detail": row["detail"],
        "pointer": row["pointer"],
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
