"""The operations of batches: what each takes, the scope that it needs, and how it is applied."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from user_service.errors import FieldError, ValidationFailed
from user_service.users.batch.bodies import (
    Batch,
    CreateBatch,
    CreateItem,
    FindBatch,
    ImportItem,
    UpdateBatch,
    UpdateItem,
    UserBatch,
    UserItem,
)
from user_service.users.batch.results import ItemResult
from user_service.users.bulk_insert import PreparedUsers
from user_service.users.schemas import Body
from user_service.users.service import Outcome, UserService
from user_service.users.validation_errors import document_error
from user_service.users.version_conditions import require_version


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """A batch whose items are validated: the valid items with their indexes, and the failures of the others by index.

    `prepared` are the users of a create.
    """

    batch: Batch
    indexes: Sequence[int]
    items: Sequence[Any]
    failures: Mapping[int, ItemResult]
    prepared: PreparedUsers | None = None


async def create(service: UserService, parsed: ParsedBatch) -> list[Outcome]:
    assert isinstance(parsed.batch, CreateBatch)
    bodies = [item.data for item in parsed.items]
    return await service.create(bodies, on_conflict=parsed.batch.on_conflict, prepared=parsed.prepared)


async def update(service: UserService, parsed: ParsedBatch) -> list[Outcome]:
    return await service.update([(item.id, require_version(item.if_version), item.data) for item in parsed.items])


async def delete(service: UserService, parsed: ParsedBatch) -> list[Outcome]:
    return await service.delete([(item.id, require_version(item.if_version)) for item in parsed.items])


async def restore(service: UserService, parsed: ParsedBatch) -> list[Outcome]:
    return await service.restore([(item.id, require_version(item.if_version)) for item in parsed.items])


@dataclass(frozen=True, slots=True)
class BatchOperation:
    """The scope that a batch needs, and the schema of its body."""

    scope: str
    body: type[Body]


@dataclass(frozen=True, slots=True)
class WriteOperation(BatchOperation):
    """The schema of an item, and what applies the valid ones."""

    item: type[Body]
    apply: Callable[[UserService, ParsedBatch], Awaitable[list[Outcome]]]


WRITE_OPERATIONS: Final[Mapping[str, WriteOperation]] = {
    "create": WriteOperation("users:write", CreateBatch, CreateItem, create),
    "update": WriteOperation("users:write", UpdateBatch, UpdateItem, update),
    "delete": WriteOperation("users:delete", UserBatch, UserItem, delete),
    "restore": WriteOperation("users:write", UserBatch, UserItem, restore),
}
# Imports alone take what an export writes.
IMPORT: Final = WriteOperation("users:write", CreateBatch, ImportItem, create)
OPERATIONS: Final[Mapping[str, BatchOperation]] = {**WRITE_OPERATIONS, "find": BatchOperation("users:read", FindBatch)}


def parse_batch(operation: str, document: object) -> Body:
    """The body of a batch, whose items are not validated yet. Raises ValidationFailed."""
    try:
        return OPERATIONS[operation].body.model_validate(document)
    except ValidationError as error:
        raise ValidationFailed(errors=document_errors(error)) from None


def document_errors(error: ValidationError, *, prefix: str = "") -> list[FieldError]:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return [document_error(fault, prefix=prefix) for fault in faults]
