"""Runs batches: many users at once, by the rules of one user. HTTP, events and imports all use this."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeVar
from uuid import UUID

from pydantic import ValidationError

from user_service.errors import DuplicateInBatch, ServiceError, ValidationFailed
from user_service.idempotency.requests import TransactionHook
from user_service.idempotency.stored_responses import Links
from user_service.observability.jobs import JobLog
from user_service.users.batch.bodies import Batch, CreateBatch, FindBatch, check_size
from user_service.users.batch.find import FindResponse, find
from user_service.users.batch.operations import IMPORT, WRITE_OPERATIONS, ParsedBatch, WriteOperation, document_errors
from user_service.users.batch.results import (
    BatchResponse,
    ItemResult,
    applied_response,
    fail_item,
    is_invalid,
    refused_response,
)
from user_service.users.bulk_insert import SLICE_SIZE, PreparedUsers, iterate_slices
from user_service.users.change_log import Origin
from user_service.users.privacy.mentions import mention_item
from user_service.users.reader import UserReader
from user_service.users.schemas import Body
from user_service.users.service import Outcome
from user_service.users.unit_of_work import UserDatabase, retry_contended

MAX_REF_LENGTH: Final = 255
UNCHANGED: Final = frozenset({"failed", "skipped"})
# How a batch ended, for metrics and the list of jobs, by the status of its response.
ENDINGS: Final = {207: "partial", 409: "failed"}

Item = TypeVar("Item", bound=Body)
Response = TypeVar("Response", bound=BatchResponse)


class BatchRunner:
    """Runs batches, each in a unit of work of its own."""

    def __init__(self, database: UserDatabase, reader: UserReader, jobs: JobLog) -> None:
        self.database = database
        self.jobs = jobs
        self.reader = reader
        self.metrics = database.metrics
        self.parsing = asyncio.Lock()

    async def run(
        self, operation: str, batch: Batch, origin: Origin, *, hook: TransactionHook | None = None
    ) -> BatchResponse:
        """The response to a batch of `parse_batch` that changes users; the caller has checked the operation's scope.

        `hook` makes it idempotent. Raises PayloadTooLarge, DatabaseUnavailable, Contended, and what `hook` raises.
        """
        size = len(batch.items)
        writing = self.write(WRITE_OPERATIONS[operation], batch, origin, hook)
        return await self.record(operation, size, writing, total=size)

    async def import_users(self, batch: CreateBatch, origin: Origin, *, hook: TransactionHook) -> BatchResponse:
        """The response to a chunk of an import: a create whose items may be what an export wrote. Raises as `run`."""
        size = len(batch.items)
        return await self.record("create", size, self.write(IMPORT, batch, origin, hook), total=size)

    async def find(self, body: FindBatch, *, fresh: bool = False) -> FindResponse:
        """The response to a find; `fresh` reads from the database, not from the cache.

        Raises PayloadTooLarge, DatabaseUnavailable.
        """
        return await self.record("find", body.size, find(body, self.reader, self.database.index, fresh=fresh))

    async def record(
        self, operation: str, size: int, running: Awaitable[Response], *, total: int | None = None
    ) -> Response:
        """The response of what is running, once it is counted in the metrics and listed as a job."""
        started = perf_counter()
        ended = "error"
        job = self.jobs.begin("batch", operation, total=total)
        try:
            response = await running
            ended = ENDINGS.get(response.status, "succeeded")
            job.advance(done=size, failed=sum(item["status"] == "failed" for item in response.items))
        except ServiceError as error:
            # What the caller can fix, such as a key in use, is no error of the service.
            ended = "refused" if error.status < 500 else "error"
            raise
        finally:
            job.end(ended)
            self.metrics.batches.add(operation, ended)
        if not response.replayed:
            self.metrics.batch_seconds.observe((operation,), perf_counter() - started)
            self.metrics.batch_size.observe((operation,), size)
        return response

    async def write(
        self, operation: WriteOperation, batch: Batch, origin: Origin, hook: TransactionHook | None
    ) -> BatchResponse:
        check_size(len(batch.items))
        parsed = await self.parse(operation, batch)
        return await retry_contended(partial(self.attempt, operation, parsed, origin, hook))

    async def parse(self, operation: WriteOperation, batch: Batch) -> ParsedBatch:
        # Large batches one after the other: parsing them together would take more memory and end no sooner.
        async with self.parsing if len(batch.items) > SLICE_SIZE else nullcontext():
            parsed = await parse_items(operation.item, batch.items)
            failures = {index: item for index, item in enumerate(parsed) if isinstance(item, dict)}
            indexes = [index for index in range(len(parsed)) if index not in failures]
            items: list[Any] = [parsed[index] for index in indexes]
            prepared = None
            if isinstance(batch, CreateBatch):
                bodies = [item.data for item in items]
                prepared = await PreparedUsers.prepare(bodies, self.database.cipher, self.database.index)
        return ParsedBatch(batch, indexes, items, failures, prepared)

    async def attempt(
        self, operation: WriteOperation, parsed: ParsedBatch, origin: Origin, hook: TransactionHook | None
    ) -> BatchResponse:
        batch = parsed.batch
        async with self.database.unit_of_work(origin) as service:
            session = service.repository.session
            if hook is not None and (stored := await hook.before(session)) is not None:
                return BatchResponse.replay(stored)
            if batch.dry_run or batch.mode == "atomic":
                await service.savepoint()
            results = merge_results(parsed, await operation.apply(service, parsed))
            failed = batch.mode == "atomic" and any(result["status"] == "failed" for result in results)
            if failed or batch.dry_run:
                await service.rollback_to_savepoint()
            response = refused_response(results, origin.request_id) if failed else applied_response(results)
            # Client errors are not stored: the caller fixes the request and retries.
            is_client_error = failed and any(map(is_invalid, results))
            if hook is not None and (hook.stores_all or not (batch.dry_run or is_client_error)):
                mentions = partial(self.mentions, batch.items, results, service.logged)
                await hook.after(session, response.to_stored(), Links(origin.traceparent, mentions))
        return response

    def mentions(self, items: Sequence[Any], results: Sequence[ItemResult], logged: Collection[UUID]) -> list[UUID]:
        """The mentions of the items that have logged no change."""
        changed = sum(result["status"] not in UNCHANGED for result in results)
        all_logged = changed == len(logged)
        mentions: list[UUID] = []
        for result in results:
            if all_logged and result["status"] not in UNCHANGED:
                continue
            user_id = UUID(result["id"]) if result["id"] else None
            if user_id is None or user_id not in logged:
                mentions += mention_item(items[result["index"]], self.database.index)
                mentions += [user_id] if user_id is not None else []
        return list(dict.fromkeys(mentions))


def merge_results(parsed: ParsedBatch, outcomes: Sequence[Outcome]) -> list[ItemResult]:
    """The result of each item, in the order of the request; `outcomes` are those of the valid items."""
    places = zip(parsed.indexes, parsed.items, outcomes, strict=True)
    made = [make_result(index, item.ref, outcome, parsed) for index, item, outcome in places]
    if not parsed.failures:
        return made
    results = {**parsed.failures, **dict(zip(parsed.indexes, made, strict=True))}
    return [results[index] for index in range(len(results))]


def make_result(index: int, ref: str | None, outcome: Outcome, parsed: ParsedBatch) -> ItemResult:
    user = outcome.user
    if outcome.error is not None or user is None:
        return fail_item(index, ref, relocate_error(outcome.error or ServiceError(), index, parsed.indexes))
    # A user that a dry run creates will not exist, so its id is not shown.
    user_id = None if parsed.batch.dry_run and outcome.status == "created" else str(user.id)
    return {"index": index, "ref": ref, "status": outcome.status, "id": user_id, "version": user.version}


async def parse_items(schema: type[Item], documents: Sequence[object]) -> list[Item | ItemResult]:
    """Each item, or its failure where it does not fit the schema."""
    items: list[Item | ItemResult] = []
    async for start, some in iterate_slices(documents):
        items += [parse_item(schema, index, document) for index, document in enumerate(some, start)]
    return items


def parse_item(schema: type[Item], index: int, document: object) -> Item | ItemResult:
    try:
        # What `model_validate` calls after handling its options, which takes time for each of a thousand items.
        item: Item = schema.__pydantic_validator__.validate_python(document)
        return item
    except ValidationError as error:
        ref = document.get("ref") if isinstance(document, dict) else None
        valid_ref = ref if isinstance(ref, str) and len(ref) <= MAX_REF_LENGTH else None
        return fail_item(index, valid_ref, ValidationFailed(errors=document_errors(error, prefix=f"/items/{index}")))


def relocate_error(error: ServiceError, index: int, indexes: Sequence[int]) -> ServiceError:
    """The error with its places in the whole batch; `indexes` are those of the valid items."""
    if isinstance(error, DuplicateInBatch):
        first = indexes[error.first]
        same = "is about the same user, or asks for the same e-mail address, username or external_id"
        detail = f"The item at index {first} {same}."
        return DuplicateInBatch(detail, first=first)
    if error.errors:
        faults = [fault._replace(pointer=f"/items/{index}/data{fault.pointer}") for fault in error.errors]
        return type(error)(error.detail, errors=faults)
    return error
