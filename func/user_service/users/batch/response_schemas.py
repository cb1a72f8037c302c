"""The schemas of the responses to batches, for the documents that describe them; `results` makes the responses."""

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from user_service.users.schemas import UserRead


class ItemError(BaseModel):
    """Why an item failed; `pointer` is a JSON pointer into the request's body."""

    code: str = Field(examples=["email_taken"])
    detail: str
    pointer: str | SkipJsonSchema[None] = Field(default=None, examples=["/items/0/data/email"])


class ItemOutcome(BaseModel):
    """The outcome of one item; `id` and `version` are those of the user."""

    index: int
    ref: str | None
    status: Literal["created", "updated", "deleted", "restored", "skipped", "failed"]
    id: UUID | None
    version: int | None
    error: ItemError | SkipJsonSchema[None] = Field(default=None, description="Present when the item failed")


class Summary(BaseModel):
    total: int
    succeeded: int
    failed: int
    skipped: int


class BatchRead(BaseModel):
    """The outcomes in the order of the request."""

    summary: Summary
    items: list[ItemOutcome]


class MissingKeys(BaseModel):
    ids: list[str]
    emails: list[str]
    external_ids: list[str]
    usernames: list[str]


class FoundRead(BaseModel):
    """The users found, once each, and the keys without a user."""

    found: list[UserRead]
    missing: MissingKeys


class BatchRefused(BaseModel):
    """Problem details of an atomic batch that was not applied; `items` are those that failed."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[ItemError]
    summary: Summary
    items: list[ItemOutcome]
