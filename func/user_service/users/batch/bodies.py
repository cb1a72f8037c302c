"""The bodies of the batches. Their items are checked one by one, in batch.py, so that a wrong one fails alone."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, SkipValidation

from user_service.users.schemas import Body, UserCreate, UserUpdate, check_id

MAX_ITEMS: Final = 1000
LIMIT: Final = f"Up to {MAX_ITEMS:,}; more are refused with 413"

Id = Annotated[UUID, BeforeValidator(check_id)]
Ref = Annotated[str, Field(max_length=255, description="The caller's name for the item; comes back in the answer")]
Version = Annotated[int, Field(ge=1, le=2**31 - 1, description="Fails when the user is at another version")]


class CreateItem(Body):
    """A user to create."""

    ref: Ref | None = None
    data: UserCreate


class UpdateItem(Body):
    """A user to change: `data` is a merge patch."""

    ref: Ref | None = None
    id: Id
    if_version: Version | None = None
    data: UserUpdate


class UserItem(Body):
    """A user to delete or to restore."""

    ref: Ref | None = None
    id: Id
    if_version: Version | None = None


class Batch(Body):
    """`partial` applies what it can, `atomic` all or nothing; a dry run answers as if, and changes nothing."""

    mode: Literal["partial", "atomic"] = "partial"
    dry_run: bool = False
    items: list[Any]


class CreateBatch(Batch):
    """Users to create. Where the e-mail or the external_id is taken: `fail`, `skip`, or `update` the holder."""

    on_conflict: Literal["fail", "skip", "update"] = "fail"
    # Anything is an item: what is none of the documented kind fails alone in the answer.
    items: Annotated[list[SkipValidation[CreateItem | Any]], Field(description=LIMIT)]


class UpdateBatch(Batch):
    """Users to change."""

    items: Annotated[list[SkipValidation[UpdateItem | Any]], Field(description=LIMIT)]


class UserBatch(Batch):
    """Users to delete or to restore."""

    items: Annotated[list[SkipValidation[UserItem | Any]], Field(description=LIMIT)]


class FindBatch(Body):
    """The keys of users: 1,000 of all kinds together. What can't be a key of a user is answered as missing."""

    ids: list[str] = Field(default_factory=list)
    emails: list[str] = Field(default_factory=list)
    external_ids: list[str] = Field(default_factory=list)
