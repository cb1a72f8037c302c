"""What may become of a user: pure functions from one user to the next. Nothing here touches the database."""

from collections.abc import Callable, Mapping
from copy import copy
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import orjson
from pydantic_core import PydanticCustomError

from user_service.errors import FieldError, InvalidTransition, ValidationFailed
from user_service.users.model import DELETED, User
from user_service.users.schemas import UserCreate, UserUpdate, check_metadata, check_preferences
from user_service.values.ids import new_id, time_of

Rule = Callable[[User, datetime], User]

STATUS_MOVES: Final = frozenset(
    {("pending", "active"), ("pending", "suspended"), ("active", "suspended"), ("suspended", "active")}
)
MERGED: Final = {"preferences": check_preferences, "metadata": check_metadata}
COMPARED: Final = tuple(
    name
    for name in User.__dataclass_fields__
    if name not in {"id", "version", "created_at", "updated_at", "prior_status"}
)
compared_values: Final = attrgetter(*COMPARED)


def new_user(body: UserCreate) -> User:
    """A user of a valid body, with a fresh id."""
    user_id = new_id()
    made = time_of(user_id)
    return User(id=user_id, created_at=made, updated_at=made, **vars(body))


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: the target with the patch applied; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def patched(patch: UserUpdate) -> Rule:
    """The rule of a merge patch. An e-mail that changes is no longer verified unless the patch says so."""

    def apply(user: User, now: datetime) -> User:
        after = copy(user)
        for name in patch.model_fields_set:
            value = getattr(patch, name)
            setattr(after, name, merge_object(name, getattr(user, name), value) if name in MERGED else value)
        if after.status != user.status:
            check_move(user.status, after.status)
        if after.email != user.email and "email_verified" not in patch.model_fields_set:
            after.email_verified = False
        return after

    return apply


def merge_object(name: str, target: Mapping[str, Any], patch: Mapping[str, Any] | None) -> dict[str, Any]:
    merged: dict[str, Any] = merge_patch(target, patch) or {}
    try:
        return MERGED[name](merged)
    except PydanticCustomError as error:
        fault = FieldError(f"/{name}", error.type, f"after the merge, {name} {error.message()}")
        raise ValidationFailed(errors=[fault]) from None


def moved_to(status: str) -> Rule:
    """The rule of a lifecycle transition. A move to where the user is already is refused."""

    def apply(user: User, now: datetime) -> User:
        check_move(user.status, status)
        after = copy(user)
        after.status = status
        return after

    return apply


def check_move(before: str, after: str) -> None:
    if (before, after) not in STATUS_MOVES:
        raise InvalidTransition(f"A user who is {before} can't become {after}.")


def deleted(user: User, now: datetime) -> User:
    after = copy(user)
    after.prior_status, after.status, after.deleted_at = user.status, DELETED, now
    return after


def erased(user: User, now: datetime) -> User:
    """A tombstone: the id, and when it was made, deleted and erased."""
    return User(
        id=user.id,
        email="",
        status=DELETED,
        version=user.version,
        created_at=user.created_at,
        updated_at=now,
        deleted_at=user.deleted_at or now,
    )


def restored(user: User, now: datetime) -> User:
    if user.is_erased:
        raise InvalidTransition("A user who was erased can't be restored: nothing is left to restore.")
    if not user.is_deleted:
        raise InvalidTransition(f"A user who is {user.status} is not deleted and can't be restored.")
    after = copy(user)
    after.status, after.prior_status, after.deleted_at = user.prior_status or "active", None, None
    return after


def logged_in(user: User, now: datetime) -> User:
    after = copy(user)
    after.last_login_at = now
    return after


def changed_fields(before: User, after: User) -> list[str]:
    """The names of the API's fields in which two states of a user differ; those that always change are left out."""
    pairs = zip(COMPARED, compared_values(before), compared_values(after), strict=True)
    return [name for name, value, other in pairs if value is not other and differ(value, other)]


def differ(before: Any, after: Any) -> bool:
    """Whether two values differ in JSON: for Python, 1, 1.0 and true are one value."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return bool(before != after)
    return canonical_json(before) != canonical_json(after)


def canonical_json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def filled_fields(body: UserCreate) -> tuple[str, ...]:
    """The names of the fields that a new user comes with or gets by default, empty ones left out."""
    return tuple([name for name, value in vars(body).items() if value or (value is not None and value != {})])
