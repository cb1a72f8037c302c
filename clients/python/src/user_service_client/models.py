"""What the service answers, and what requests may contain. A test compares them with its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict

Status = Literal["pending", "active", "suspended", "deleted"]
LivingStatus = Literal["pending", "active", "suspended"]
ChangeType = Literal["created", "updated", "status_changed", "deleted", "restored", "erased", "purged"]
AuditType = Literal[ChangeType, "exported"]
ImportState = Literal["running", "interrupted", "failed", "completed"]
OnConflict = Literal["fail", "skip", "update"]
FileFormat = Literal["ndjson", "csv"]
Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at"]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class User:
    """A user. Its `repr` has no personal data."""

    id: str
    external_id: str | None = field(repr=False)
    email: str | None = field(repr=False)
    email_verified: bool = field(repr=False)
    aliases: tuple[str, ...] = field(repr=False)
    username: str | None = field(repr=False)
    given_name: str | None = field(repr=False)
    family_name: str | None = field(repr=False)
    display_name: str | None = field(repr=False)
    phone: str | None = field(repr=False)
    locale: str | None = field(repr=False)
    timezone: str | None = field(repr=False)
    status: Status
    preferences: Mapping[str, Any] = field(repr=False)
    metadata: Mapping[str, Scalar] = field(repr=False)
    version: int
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class UserPage:
    """A page of the list; `next_cursor` is None on the last one, `total` the number of users where it was asked for."""

    items: tuple[User, ...]
    next_cursor: str | None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One version of a user in its audit trail: names of fields, never values."""

    id: str
    version: int
    type: ChangeType
    status: Status
    changed: tuple[str, ...]
    actor: str
    request_id: str | None
    traceparent: str
    changed_at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class TrailPage:
    items: tuple[AuditEntry, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A change of a user, or the read of an export, in the audit of all users; `user_id` is None for many users."""

    id: str
    user_id: str | None
    version: int | None
    type: AuditType
    status: Status | None
    changed: tuple[str, ...]
    actor: str
    request_id: str | None
    traceparent: str
    changed_at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class AuditPage:
    items: tuple[AuditRecord, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One version of a user in the feed: names of fields, never values."""

    user_id: str
    version: int
    type: ChangeType
    status: Status
    changed: tuple[str, ...]
    actor: str
    time: datetime
    id: str


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes, and the cursor after them."""

    items: tuple[Change, ...]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item of a batch failed; `pointer` is a JSON pointer, with the item's index among all items given."""

    code: str
    detail: str
    pointer: str | None = None


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item of a batch; `index` is its place among all items given."""

    index: int
    ref: str | None
    status: Literal["created", "updated", "deleted", "restored", "skipped", "failed"]
    id: str | None
    version: int | None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    total: int
    succeeded: int
    failed: int
    skipped: int


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The results of all items, in the order in which they were given."""

    summary: Summary
    items: tuple[ItemResult, ...]


@dataclass(frozen=True, slots=True)
class MissingKeys:
    ids: tuple[str, ...]
    emails: tuple[str, ...]
    external_ids: tuple[str, ...]
    usernames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The users found, once each, and the keys without a user."""

    found: tuple[User, ...]
    missing: MissingKeys = field(repr=False)


@dataclass(frozen=True, slots=True)
class Import:
    """An import: `position` records have been processed, the last of them begins in `line`."""

    id: str
    state: ImportState
    format: FileFormat
    on_conflict: OnConflict
    keep_ids: bool
    dry_run: bool
    position: int
    line: int
    created: int
    updated: int
    skipped: int
    failed: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    # Of import_file: the file was imported before under this key, and nothing was applied now.
    was_done_before: bool = False


@dataclass(frozen=True, slots=True)
class ImportList:
    items: tuple[Import, ...]


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """A record of an import that failed; `record` and `line` count from 1."""

    record: int
    line: int | None
    code: str
    detail: str
    field: str | None
    pointer: str | None


class OptionalFields(TypedDict, total=False):
    """What a user may have. In an update, an absent field stays as it is, and None clears it."""

    email_verified: bool
    aliases: Sequence[str]
    username: str | None
    given_name: str | None
    family_name: str | None
    display_name: str | None
    phone: str | None
    locale: str | None
    timezone: str | None
    status: LivingStatus
    preferences: Mapping[str, Any]
    metadata: Mapping[str, Scalar]


class UpsertFields(OptionalFields):
    """A user of a given external id."""

    email: str


class NewUser(UpsertFields, total=False):
    """A user to create."""

    external_id: str | None


class UserPatch(OptionalFields, total=False):
    """A JSON merge patch (RFC 7396), which also clears single keys of `metadata` and `preferences` by None."""

    email: str
    external_id: str | None


class OwnPatch(TypedDict, total=False):
    """What a user may change of itself."""

    email: str
    username: str | None
    given_name: str | None
    family_name: str | None
    display_name: str | None
    phone: str | None
    locale: str | None
    timezone: str | None
    preferences: Mapping[str, Any]


class Filters(TypedDict, total=False):
    """The filters of a list or an export; all of them apply."""

    email: str
    email_domain: str
    username: str
    phone: str
    external_id: str
    status: Status
    q: str
    created_after: datetime
    created_before: datetime
    updated_after: datetime
    metadata: Mapping[str, Scalar]
    include_deleted: bool
