"""The bodies of batches. The items are validated one by one, by `BatchRunner`, so that an invalid one fails alone."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, SkipValidation

from user_service.errors import FieldError, PayloadTooLarge
from user_service.users.schemas import Body, ImportedUser, UserCreate, UserUpdate, with_example
from user_service.users.validation import check_id

MAX_ITEMS: Final = 1000
LIMIT: Final = f"Up to {MAX_ITEMS:,}; more are refused with 413"

Id = Annotated[UUID, BeforeValidator(check_id)]
Ref = Annotated[str, Field(max_length=255, description="The caller's name for the item; returned in its result")]
Version = Annotated[int, Field(ge=1, le=2**31 - 1, description="Fails when the user is at another version")]


class CreateItem(Body):
    """A user to create."""

    ref: Ref | None = None
    data: UserCreate


class ImportItem(Body):
    """A record of an import."""

    ref: Ref | None = None
    data: ImportedUser


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


def check_size(count: int, *, of: str = "items", errors: Sequence[FieldError] = ()) -> None:
    """Raises PayloadTooLarge, with `errors`, for more than `MAX_ITEMS`."""
    if count > MAX_ITEMS:
        detail = f"A batch has {MAX_ITEMS:,} {of} at most; this one has {count:,}. Send several batches."
        raise PayloadTooLarge(detail, errors=errors)


class Batch(Body):
    """`partial` applies the valid items, `atomic` all or none; a dry run returns the results and changes nothing."""

    mode: Literal["partial", "atomic"] = "partial"
    dry_run: bool = False
    items: list[Any]


class CreateBatch(Batch):
    """Users to create. Where the external_id or the e-mail is taken: `fail`, `skip`, or `update` the holder."""

    model_config = with_example(items=[{"ref": "row-1", "data": {"email": "ada@example.org"}}])
    on_conflict: Literal["fail", "skip", "update"] = "fail"
    # Not validated here: an item that does not fit the schema fails alone.
    items: Annotated[list[SkipValidation[CreateItem]], Field(description=LIMIT)]


class UpdateBatch(Batch):
    """Users to change."""

    model_config = with_example(
        items=[{"id": "0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f", "if_version": 1, "data": {"family_name": "King"}}]
    )
    items: Annotated[list[SkipValidation[UpdateItem]], Field(description=LIMIT)]


class UserBatch(Batch):
    """Users to delete or to restore."""

    model_config = with_example(items=[{"id": "0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"}])
    items: Annotated[list[SkipValidation[UserItem]], Field(description=LIMIT)]


class FindBatch(Body):
    """The keys of users: up to 1,000 of all kinds together. A key that no user can have is reported as missing."""

    model_config = with_example(emails=["ada@example.org"], external_ids=["crm-7"], usernames=["grace"])
    ids: list[str] = Field(default_factory=list)
    emails: list[str] = Field(default_factory=list, description="An alias counts as an e-mail address")
    external_ids: list[str] = Field(default_factory=list)
    usernames: list[str] = Field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.ids) + len(self.emails) + len(self.external_ids) + len(self.usernames)
