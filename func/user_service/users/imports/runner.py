"""Imports: users from a stream of any length, in chunks of 1,000, each chunk and its progress in one transaction.

An import's position is the number of records that it has dealt with. Whoever goes on with it sends the same records
from the start; those up to the position are passed over. A chunk is applied only where the import stands, so that two
who go on with one import at once can't apply a record twice.
"""

import asyncio
import hmac
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, case, func, select, update
from sqlalchemy.dialects.postgresql import insert as insert_unless_there

from user_service.errors import IdempotencyKeyReused, NotFound, ServiceError, ValidationFailed
from user_service.postgres.tables import import_failures, imports
from user_service.users.batch.bodies import CreateBatch
from user_service.users.batch.runner import BatchRunner
from user_service.users.change_log import Origin
from user_service.users.imports.chunks import Chunk, ImportMoved
from user_service.users.imports.parsers import Record
from user_service.values.ids import new_id

CHUNK: Final = 1000
# PostgreSQL applies two while the next one is checked and sealed.
CHUNKS_AT_ONCE: Final = 3
# An import that nobody has moved for so long has lost its sender.
SILENCE: Final = timedelta(seconds=60)
STARTED_ON: Final = b"import"
FAILURES_AT_ONCE: Final = 1000

Import = RowMapping

# A process that was killed could not say so.
STATE: Final = case(
    ((imports.c.state == "running") & (imports.c.updated_at < func.now() - SILENCE), "interrupted"),
    else_=imports.c.state,
).label("state")
SHOWN: Final = (*(column for column in imports.c if column.name not in {"state", "key", "fingerprint"}), STATE)


class ImportDiffers(IdempotencyKeyReused):
    code, title = "import_differs", "The records are not those that the import began with"


class ImportRunner:
    """Imports as they are kept, and how they go on."""

    def __init__(self, batches: BatchRunner) -> None:
        self.batches = batches
        self.storage = batches.storage
        self.keys = batches.storage.keys

    async def begin(self, origin: Origin, *, file_format: str, on_conflict: str, key: str | None) -> Import:
        """A new import, or the one that this principal began under the same key.

        Raises IdempotencyKeyReused when that one has another format or another way with conflicts.
        """
        fresh = {
            "id": new_id(),
            "actor": origin.actor,
            "key": self.hashed(origin.actor, key) if key is not None else None,
            "format": file_format,
            "on_conflict": on_conflict,
            "state": "running",
        }
        async with self.storage.transaction() as session:
            insertion = insert_unless_there(imports).values(fresh).on_conflict_do_nothing().returning(imports.c.id)
            made = (await session.execute(insertion)).scalar_one_or_none()
            known = imports.c.id == made if made is not None else imports.c.key == fresh["key"]
            row = (await session.execute(select(imports).where(known))).mappings().one()
        if (row["format"], row["on_conflict"]) != (file_format, on_conflict):
            raise IdempotencyKeyReused("This key belongs to an import of another format or on_conflict.")
        return row

    async def find(self, import_id: UUID) -> Import:
        """Raises NotFound."""
        async with self.storage.transaction() as session:
            row = (await session.execute(select(*SHOWN).where(imports.c.id == import_id))).mappings().one_or_none()
        if row is None:
            raise NotFound("There is no such import.")
        return row

    async def latest(self, limit: int) -> Sequence[Import]:
        """The newest imports first."""
        newest = select(*SHOWN).order_by(imports.c.id.desc()).limit(limit)
        async with self.storage.transaction() as session:
            return (await session.execute(newest)).mappings().all()

    async def failures(self, import_id: UUID) -> AsyncIterator[bytes]:
        """The failures in the order of the records, as NDJSON, a piece at a time."""
        last = 0
        while True:
            page = (
                select(import_failures)
                .where(import_failures.c.import_id == import_id, import_failures.c.record > last)
                .order_by(import_failures.c.record)
                .limit(FAILURES_AT_ONCE)
            )
            async with self.storage.transaction() as session:
                rows = (await session.execute(page)).all()
            if not rows:
                return
            last = rows[-1].record
            yield b"".join(map(failure_line, rows))

    async def take(self, begun: Import, records: AsyncIterator[Sequence[Record]], origin: Origin) -> None:
        """Goes on with an import from its position, with all its records from the start; then it is completed.

        While PostgreSQL applies a chunk, the next one is read, checked and sealed. Raises ImportMoved, ImportDiffers,
        and what the stream raises: then the import stands where its last chunk ended.
        """
        if begun["state"] == "completed":
            await self.check_same(begun, records)
            return
        applying: deque[asyncio.Task[None]] = deque()
        before: Chunk | None = None
        try:
            async for chunk in self.chunks(begun, records):
                if before is None:
                    chunk.lead(merges=begun["on_conflict"] == "update")
                else:
                    chunk.follow(before)
                before = chunk
                if len(applying) == CHUNKS_AT_ONCE:
                    await applying.popleft()
                applying.append(asyncio.create_task(self.apply(chunk, begun["on_conflict"], origin)))
                applying[-1].add_done_callback(chunk.end)
            while applying:
                await applying.popleft()
        except BaseException as error:
            await asyncio.gather(*applying, return_exceptions=True)
            if not isinstance(error, ImportMoved | ImportDiffers):
                await self.stop(begun["id"], "failed" if isinstance(error, ValidationFailed) else "interrupted")
            raise
        await self.set_state(begun["id"], "completed")

    async def check_same(self, begun: Import, records: AsyncIterator[Sequence[Record]]) -> None:
        """Raises ImportDiffers where a completed import did not begin with these records, or had fewer."""
        async for _ in self.chunks(begun, records):
            raise ImportDiffers("The import under this key is complete and had fewer records. Use another key.")

    async def stop(self, import_id: UUID, state: str) -> None:
        """Says that nobody goes on with an import; where even that fails, its silence will."""
        with suppress(ServiceError):
            await self.set_state(import_id, state)

    async def chunks(self, begun: Import, records: AsyncIterator[Sequence[Record]]) -> AsyncIterator[Chunk]:
        """What is still to do, in chunks that begin where the import stands."""
        start = 0
        held: list[Record] = []
        async for some in records:
            held += some
            while len(held) >= CHUNK:
                if (chunk := self.chunk(begun, start, held[:CHUNK])) is not None:
                    yield chunk
                start += CHUNK
                del held[:CHUNK]
        if held and (chunk := self.chunk(begun, start, held)) is not None:
            yield chunk

    def chunk(self, begun: Import, start: int, records: Sequence[Record]) -> Chunk | None:
        """The chunk, or None when it was dealt with before."""
        position = begun["position"]
        fingerprint = self.fingerprint(records) if start == 0 else b""
        if start == 0 and begun["fingerprint"] not in (None, fingerprint):
            raise ImportDiffers(
                "Send the file that this import began with, from its first byte, or another file under another key."
            )
        done = max(0, min(position - start, len(records)))
        rest = records[done:]
        return Chunk(begun["id"], start + done, rest, fingerprint) if rest else None

    async def apply(self, chunk: Chunk, on_conflict: str, origin: Origin) -> None:
        items: list[Any] = [{"data": record} for _, record in chunk.good]
        batch = CreateBatch.model_construct(mode="partial", dry_run=False, on_conflict=on_conflict, items=items)
        await self.batches.run("create", batch, origin, once=chunk)

    async def set_state(self, import_id: UUID, state: str) -> None:
        finished_at = func.now() if state == "completed" else None
        # A sender that fails does not undo what another one has completed.
        change = update(imports).where(imports.c.id == import_id, imports.c.state != "completed")
        async with self.storage.transaction() as session:
            await session.execute(change.values(state=state, updated_at=func.now(), finished_at=finished_at))

    def hashed(self, actor: str, key: str) -> bytes:
        return hmac.digest(self.keys.idempotency, orjson.dumps([actor, key]), "sha256")

    def fingerprint(self, records: Sequence[Record]) -> bytes:
        """Tells whether a file begins as the import's did; a keyed hash, since it is over personal data."""
        return hmac.digest(self.keys.idempotency, STARTED_ON + orjson.dumps(list(records)), "sha256")


def failure_line(row: Any) -> bytes:
    line = {"record": row.record, "code": row.code, "detail": row.detail, "pointer": row.pointer}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
