"""Batches: many users at once, by the rules and the code of one. HTTP, events and imports all come through here."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from random import uniform
from time import perf_counter
from typing import Any, Final, TypeVar
from uuid import UUID

from pydantic import ValidationError

from user_service.errors import Contended, DuplicateInBatch, FieldError, PayloadTooLarge, ServiceError, ValidationFailed
from user_service.idempotency.requests import TransactionHook
from user_service.idempotency.stored_responses import Links, mentions_of_item
from user_service.observability.jobs import JobLog
from user_service.users.batch.bodies import (
    MAX_ITEMS,
    Batch,
    CreateBatch,
    CreateItem,
    FindBatch,
    UpdateBatch,
    UpdateItem,
    UserBatch,
    UserItem,
)
from user_service.users.batch.find import find
from user_service.users.batch.results import BatchResponse, ItemResult, applied, failure, is_wrong, refused
from user_service.users.change_log import Origin
from user_service.users.prepared_users import AT_ONCE, PreparedUsers, in_slices
from user_service.users.reader import UserReader
from user_service.users.schemas import Body
from user_service.users.service import Outcome, UserService
from user_service.users.unit_of_work import Storage
from user_service.users.validation_errors import document_error

ATTEMPTS: Final = 6
FIRST_PAUSE_SECONDS: Final = 0.02

Apply = Callable[[UserService, Any, Sequence[Any]], Awaitable[list[Outcome]]]
B = TypeVar("B", bound=Body)


async def create(
    service: UserService, batch: CreateBatch, items: Sequence[CreateItem], newcomers: PreparedUsers | None = None
) -> list[Outcome]:
    bodies = [item.data for item in items]
    return await service.create(bodies, on_conflict=batch.on_conflict, newcomers=newcomers)


async def update(service: UserService, batch: UpdateBatch, items: Sequence[UpdateItem]) -> list[Outcome]:
    return await service.update([(item.id, item.if_version, item.data) for item in items])


async def delete(service: UserService, batch: UserBatch, items: Sequence[UserItem]) -> list[Outcome]:
    return await service.delete([(item.id, item.if_version) for item in items])


async def restore(service: UserService, batch: UserBatch, items: Sequence[UserItem]) -> list[Outcome]:
    return await service.restore([(item.id, item.if_version) for item in items])


@dataclass(frozen=True, slots=True)
class BatchOperation:
    """What one kind of batch takes, and whom it asks for which scope."""

    scope: str
    body: type[Body]
    item: type[Body] | None = None
    apply: Apply | None = None


OPERATIONS: Final[Mapping[str, BatchOperation]] = {
    "create": BatchOperation("users:write", CreateBatch, CreateItem, create),
    "update": BatchOperation("users:write", UpdateBatch, UpdateItem, update),
    "delete": BatchOperation("users:delete", UserBatch, UserItem, delete),
    "restore": BatchOperation("users:write", UserBatch, UserItem, restore),
    "find": BatchOperation("users:read", FindBatch),
}


def parse_batch(operation: str, document: object) -> Body:
    """The body of a batch. Raises ValidationFailed for what is no batch; its items may still be wrong."""
    try:
        return OPERATIONS[operation].body.model_validate(document)
    except ValidationError as error:
        raise ValidationFailed(errors=faults_of(error)) from None


def faults_of(error: ValidationError, *, prefix: str = "") -> list[FieldError]:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return [document_error(fault, prefix=prefix) for fault in faults]


class BatchRunner:
    """Runs batches, each in a unit of work of its own."""

    def __init__(self, storage: Storage, reader: UserReader, jobs: JobLog) -> None:
        self.storage = storage
        self.jobs = jobs
        self.reader = reader
        self.metrics = storage.metrics
        self.making = asyncio.Lock()

    async def run(
        self, operation: str, body: Body, origin: Origin, *, once: TransactionHook | None = None, fresh: bool = False
    ) -> BatchResponse:
        """The answer of a batch that `parse_batch` gave; the caller has checked the operation's scope.

        `once` makes it idempotent (not a find, which changes nothing); `fresh` lets a find pass by the cache.
        Raises PayloadTooLarge, DatabaseUnavailable, Contended, and what `once` raises.
        """
        started = perf_counter()
        ended = "error"
        job = self.jobs.begin("batch", operation, total=len(body.items) if isinstance(body, Batch) else None)
        try:
            if isinstance(body, FindBatch):
                answer, size = await find(body, self.reader, self.storage.index, fresh=fresh)
            else:
                assert isinstance(body, Batch)
                check_size(size := len(body.items))
                answer = await self.write(OPERATIONS[operation], body, origin, once)
            ended = ENDINGS.get(answer.status, "succeeded")
            job.advance(done=size, failed=sum(item["status"] == "failed" for item in answer.items))
        except ServiceError as error:
            # What the sender can mend, a key in use among it, is no error of the service.
            ended = "refused" if error.status < 500 else "error"
            raise
        finally:
            job.end(ended)
            self.metrics.batches.add(operation, ended)
        if not answer.replayed:
            self.metrics.batch_seconds.observe((operation,), perf_counter() - started)
            self.metrics.batch_size.observe((operation,), size)
        return answer

    async def write(
        self, operation: BatchOperation, batch: Batch, origin: Origin, once: TransactionHook | None
    ) -> BatchResponse:
        """Tries again when PostgreSQL gave the transaction up in favour of another one."""
        assert operation.item is not None
        # Large ones one after the other: together they would end no sooner, and take more memory at once.
        async with self.making if len(batch.items) > AT_ONCE else nullcontext():
            items = await parse_items(operation.item, batch.items)
            if isinstance(batch, CreateBatch):
                bodies = [item.data for item in items if isinstance(item, CreateItem)]
                newcomers = await PreparedUsers.ready(bodies, self.storage.cipher, self.storage.index)
                operation = replace(operation, apply=partial(create, newcomers=newcomers))
        for attempt in range(1, ATTEMPTS):
            try:
                return await self.attempt(operation, batch, items, origin, once)
            except Contended:
                # Not all at once again.
                await asyncio.sleep(uniform(0, FIRST_PAUSE_SECONDS * 2**attempt))  # noqa: S311
        return await self.attempt(operation, batch, items, origin, once)

    async def attempt(
        self,
        operation: BatchOperation,
        batch: Batch,
        items: Sequence[Any],
        origin: Origin,
        once: TransactionHook | None,
    ) -> BatchResponse:
        async with self.storage.unit_of_work(origin) as service:
            session = service.repository.session
            if once is not None and (kept := await once.claim(session)) is not None:
                return BatchResponse.replay(kept)
            if batch.dry_run or batch.mode == "atomic":
                await service.savepoint()
            results = await self.results(operation, batch, items, service)
            failed = batch.mode == "atomic" and any(result["status"] == "failed" for result in results)
            if failed or batch.dry_run:
                await service.rollback_to_savepoint()
            answer = refused(results, origin.request_id) if failed else applied(results)
            # Nobody needs the answer again that says what to mend.
            mended = batch.dry_run or (failed and any(map(is_wrong, results)))
            if once is not None and (once.keeps_all or not mended):
                mentions = partial(self.mentions, batch.items, results, service.logged)
                await once.keep(session, answer.to_keep(), Links(origin.traceparent, mentions))
        return answer

    async def results(
        self, operation: BatchOperation, batch: Batch, items: Sequence[Any], service: UserService
    ) -> list[ItemResult]:
        """Each item's result, in the order of the request."""
        assert operation.apply is not None
        good = [index for index, item in enumerate(items) if not isinstance(item, dict)]
        outcomes = await operation.apply(service, batch, [items[index] for index in good])
        results = list(items)
        for index, outcome in zip(good, outcomes, strict=True):
            ref = items[index].ref
            user = outcome.user
            if outcome.error is not None or user is None:
                results[index] = failure(index, ref, located(outcome.error or ServiceError(), index, good))
                continue
            # The id of a user who will not be created means nothing.
            shown = None if batch.dry_run and outcome.status == "created" else str(user.id)
            results[index] = {
                "index": index,
                "ref": ref,
                "status": outcome.status,
                "id": shown,
                "version": user.version,
            }
        return results

    def mentions(self, items: Sequence[Any], results: Sequence[ItemResult], logged: Collection[UUID]) -> list[UUID]:
        """Whom the items are about that have left no change behind."""
        changed = sum(result["status"] not in UNCHANGED for result in results)
        everybody = changed == len(logged)
        found: list[UUID] = []
        for result in results:
            if everybody and result["status"] not in UNCHANGED:
                continue
            user_id = UUID(result["id"]) if result["id"] else None
            if user_id is None or user_id not in logged:
                found += mentions_of_item(items[result["index"]], self.storage.index)
                found += [user_id] if user_id is not None else []
        return list(dict.fromkeys(found))


UNCHANGED: Final = frozenset({"failed", "skipped"})
ENDINGS: Final = {207: "partial", 409: "failed"}


def check_size(count: int) -> None:
    """Raises PayloadTooLarge."""
    if count > MAX_ITEMS:
        raise PayloadTooLarge(f"A batch has {MAX_ITEMS:,} items at most; this one has {count:,}. Send several batches.")


async def parse_items(kind: type[B], given: Sequence[object]) -> list[B | ItemResult]:
    """Each item, or the failure that it is."""
    items: list[B | ItemResult] = []
    async for begin, some in in_slices(given):
        items += [parse_item(kind, index, item) for index, item in enumerate(some, begin)]
    return items


def parse_item(kind: type[B], index: int, item: object) -> B | ItemResult:
    """The item, or the failure that it is."""
    try:
        # What `model_validate` does once it has looked at its options, for each of a thousand.
        parsed: B = kind.__pydantic_validator__.validate_python(item)
        return parsed
    except ValidationError as error:
        ref = item.get("ref") if isinstance(item, dict) else None
        known = ref if isinstance(ref, str) and len(ref) <= 255 else None
        return failure(index, known, ValidationFailed(errors=faults_of(error, prefix=f"/items/{index}")))


def located(error: ServiceError, index: int, good: Sequence[int]) -> ServiceError:
    """The error with its places in the whole batch; `good` are the indices of the items that were tried."""
    if isinstance(error, DuplicateInBatch):
        return moved_duplicate(good[error.first])
    if error.errors:
        faults = [fault._replace(pointer=f"/items/{index}/data{fault.pointer}") for fault in error.errors]
        return type(error)(error.detail, errors=faults)
    return error


def moved_duplicate(first: int) -> DuplicateInBatch:
    error = DuplicateInBatch(first=first)
    error.detail = f"The item at index {first} is about the same user, or asks for the same e-mail or external_id."
    return error
