"""The rules of changes: pure functions from a user to the changed user, without the database."""

from collections.abc import Callable, Mapping
from copy import copy
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import orjson
from pydantic_core import PydanticCustomError

from user_service.errors import FieldError, InvalidTransition, ValidationFailed
from user_service.users.model import DELETED, User
from user_service.users.schemas import UserCreate, UserUpdate
from user_service.users.validation import check_metadata, check_preferences
from user_service.values.emails import email_key
from user_service.values.ids import id_time, new_id

Rule = Callable[[User, datetime], User]

STATUS_TRANSITIONS: Final = frozenset(
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
    """A user from a valid body, with a new id."""
    user_id = new_id()
    created_at = id_time(user_id)
    return User(id=user_id, created_at=created_at, updated_at=created_at, **vars(body))


def merge_patch(target: Any, patch: Any) -> Any:
    """The target with a JSON merge patch (RFC 7396) applied; neither argument is changed."""
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
    """The rule of a merge patch. Another e-mail address is not verified unless the patch says so; another spelling of
    the same address leaves it as it is.
    """

    def apply(user: User, now: datetime) -> User:
        after = copy(user)
        for name in patch.model_fields_set:
            value = getattr(patch, name)
            setattr(after, name, merge_object(name, getattr(user, name), value) if name in MERGED else value)
        if after.status != user.status:
            check_transition(user.status, after.status)
        if "email_verified" not in patch.model_fields_set and is_other_email(user.email, after.email):
            after.email_verified = False
        return after

    return apply


def is_other_email(before: str, after: str) -> bool:
    """Whether two addresses are different ones; compares what uniqueness compares."""
    return before != after and email_key(before) != email_key(after)


def merge_object(name: str, target: Mapping[str, Any], patch: Mapping[str, Any] | None) -> dict[str, Any]:
    merged: dict[str, Any] = merge_patch(target, patch) or {}
    try:
        return MERGED[name](merged)
    except PydanticCustomError as error:
        fault = FieldError(f"/{name}", error.type, f"after the merge, {name} {error.message()}")
        raise ValidationFailed(errors=[fault]) from None


def set_status(status: str) -> Rule:
    """The rule of suspend and activate. A transition to the status that the user already has is refused."""

    def apply(user: User, now: datetime) -> User:
        check_transition(user.status, status)
        after = copy(user)
        after.status = status
        return after

    return apply


def check_transition(before: str, after: str) -> None:
    if (before, after) not in STATUS_TRANSITIONS:
        raise InvalidTransition(f"A user who is {before} can't become {after}.")


def deleted(user: User, now: datetime) -> User:
    after = copy(user)
    after.prior_status, after.status, after.deleted_at = user.status, DELETED, now
    return after


def erased(user: User, now: datetime) -> User:
    """A tombstone: the id, and the times of its creation, deletion and erasure."""
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
        raise InvalidTransition("An erased user can't be restored: nothing is left to restore.")
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
    """The names of the fields in which two versions of a user differ, without those that change with every version."""
    pairs = zip(COMPARED, compared_values(before), compared_values(after), strict=True)
    return [name for name, value, other in pairs if value is not other and differ(value, other)]


def differ(before: Any, after: Any) -> bool:
    """Whether two values differ as JSON: in Python, 1, 1.0 and True are equal."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return bool(before != after)
    return canonical_json(before) != canonical_json(after)


def canonical_json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def filled_fields(body: UserCreate) -> tuple[str, ...]:
    """The names of a new user's fields that are not empty, defaults included."""
    return tuple([name for name, value in vars(body).items() if value or (value is not None and value != {})])
