"""The rules of changes: pure functions from a user to the changed user, without the database."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import orjson
from pydantic_core import PydanticCustomError

from user_service.errors import FieldError, InvalidTransition, ValidationFailed
from user_service.users.change_log import Change
from user_service.users.model import DELETED, User
from user_service.users.schemas import ImportedUser, UserCreate, UserUpdate
from user_service.users.validation import check_addresses, check_metadata, check_preferences
from user_service.values.case_folding import email_key
from user_service.values.ids import id_time, new_id, new_id_at

Rule = Callable[[User, datetime], User]

STATUS_TRANSITIONS: Final = frozenset(
    {("pending", "active"), ("pending", "suspended"), ("active", "suspended"), ("suspended", "active")}
)
UPDATED_FIELDS: Final = frozenset(UserUpdate.model_fields)
# Fields of a new user that its first change does not name: an id and a time of creation are there in any case.
UNLOGGED: Final = frozenset({"id", "created_at"})
EMPTY: Final[tuple[Any, ...]] = ({}, [])
MERGED: Final = {"preferences": check_preferences, "metadata": check_metadata}
ADDRESSES: Final = frozenset({"email", "aliases"})
COMPARED: Final = tuple(
    name
    for name in User.__dataclass_fields__
    if name not in {"id", "version", "created_at", "updated_at", "prior_status"}
)
compared_values: Final = attrgetter(*COMPARED)


def new_user(body: UserCreate) -> User:
    """A user from a valid body, with a new id."""
    if type(body) is ImportedUser:
        return imported_user(body)
    user_id = new_id()
    created_at = id_time(user_id)
    # By position, which takes half the time of names.
    return User(user_id, created_at, created_at, *vars(body).values())


def imported_user(body: ImportedUser) -> User:
    """A user from a record, with the id and the time of creation that it names. It is updated now: readers who follow
    `updated_after` meet it.
    """
    fields = dict(vars(body))
    user_id, created_at, now_id = fields.pop("id"), fields.pop("created_at"), new_id()
    if user_id is None:
        user_id = now_id if created_at is None else new_id_at(created_at)
    return User(id=user_id, created_at=id_time(user_id), updated_at=id_time(now_id), **fields)


def merged(body: UserCreate) -> Rule:
    """The rule of a new user whose key another user holds: the holder gets the fields that the body gives."""
    rule = patched(UserUpdate.model_construct(body.model_fields_set & UPDATED_FIELDS, **vars(body)))
    last_login_at = body.last_login_at if isinstance(body, ImportedUser) else None
    if last_login_at is None:
        return rule

    def apply(user: User, now: datetime) -> User:
        after = rule(user, now)
        after.last_login_at = last_login_at
        return after

    return apply


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
        after.aliases = after.aliases or []
        if not patch.model_fields_set.isdisjoint(ADDRESSES):
            check_merged_addresses(after)
        if after.status != user.status:
            check_transition(user.status, after.status)
        if "email_verified" not in patch.model_fields_set and is_other_email(user.email, after.email):
            after.email_verified = False
        return after

    return apply


def check_merged_addresses(user: User) -> None:
    """Raises ValidationFailed when the patched e-mail address is an alias that the patch leaves."""
    try:
        check_addresses(user.email, user.aliases)
    except PydanticCustomError as error:
        detail = f"after the merge, aliases {error.message()}"
        raise ValidationFailed(errors=[FieldError("/aliases", error.type, detail)]) from None


def is_other_email(before: str, after: str) -> bool:
    """Whether two addresses are different ones; compares what uniqueness compares."""
    return before != after and email_key(before) != email_key(after)


def is_same_user(new: User, holder: User) -> bool:
    """Whether the holder of a new user's id, external id or e-mail is the user that the new one stands for."""
    if holder.id == new.id or (new.external_id is not None and new.external_id == holder.external_id):
        return True
    has_other_id = new.external_id is not None and holder.external_id is not None
    return not has_other_id and not is_other_email(holder.email, new.email)


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
        external_id=None,
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


def first_change(user: User, body: UserCreate) -> Change:
    """The change that creates a user: it names the fields that are not empty, defaults included."""
    # False is neither: that is found out first, since most users have it.
    names = [
        name
        for name, value in vars(body).items()
        if value or value is False or (value is not None and value not in EMPTY)
    ]
    if type(body) is ImportedUser:
        names = [name for name in names if name not in UNLOGGED]
    return Change(user, "created", tuple(names))


def change_type(kind: str, changed: Sequence[str]) -> str:
    """The type of a change of these fields, which is of this kind."""
    return "status_changed" if kind == "updated" and "status" in changed else kind
