"""The operations on users, each written once for both clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

from user_service_client.batches import find_users
from user_service_client.errors import UnexpectedResponse, VersionMismatch
from user_service_client.imports import ImportMethods
from user_service_client.models import (
    AuditEntry,
    AuditPage,
    AuditRecord,
    AuditType,
    Filters,
    NewUser,
    OwnPatch,
    Sort,
    TrailPage,
    UpsertFields,
    User,
    UserPage,
    UserPatch,
)
from user_service_client.runners import Resource, iteration, operation
from user_service_client.service import (
    USERS,
    UserRef,
    add_query,
    expected_version,
    external_id_path,
    filter_parameters,
    user_id,
    user_path,
)
from user_service_client.steps import (
    Emit,
    Emits,
    Parse,
    Reply,
    Request,
    Steps,
    T,
    load_json,
    parse_as,
    parse_nothing,
)
from user_service_client.streams import StreamMethods

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

MERGE_PATCH = "application/merge-patch+json"
PAGE_SIZE = 200
Item = TypeVar("Item", covariant=True)


class Page(Protocol[Item]):
    @property
    def items(self) -> tuple[Item, ...]: ...

    @property
    def next_cursor(self) -> str | None: ...


class WriteOptions(TypedDict, total=False):
    if_version: int | None
    idempotency_key: str | None


class UserMethods(ImportMethods, StreamMethods):
    """Writes send an Idempotency-Key, `idempotency_key` or a new one, which is the same in every try.

    `user` is a User or an id. With a User, a write sends `If-Match` with its version and raises VersionMismatch if the
    user has changed since it was read; with an id, it does so if `if_version` is given. Methods raise UserServiceError.
    """

    def because(self, reason: str) -> Self:
        """The same methods, whose changes and exports have this reason in the audit, such as `ticket 4711`."""
        return type(self)(replace(self.service, reason=reason), self.http)

    @operation
    def create(self, *, idempotency_key: str | None = None, **fields: Unpack[NewUser]) -> Steps[User]:
        """Raises EmailTaken, UsernameTaken, ExternalIdTaken, ValidationFailed."""
        return self.service.write("POST", USERS, parse_as(User), fields, key=idempotency_key)

    @operation
    def get(self, user: UserRef, /, *, include_deleted: bool = False, fresh: bool = False) -> Steps[User]:
        """`fresh` reads from the database instead of a cache, which may be seconds old. Raises UserNotFound."""
        path = add_query(user_path(user), {"include": "deleted"} if include_deleted else {})
        headers = {"Cache-Control": "no-cache"} if fresh else {}
        return self.service.call(Request("GET", path, headers), parse_as(User))

    @operation
    def find_by_email(self, email: str, /) -> Steps[User | None]:
        """The user with this address or alias. The address is not in the URL, and so in no log."""
        return find_first(self, "emails", email)

    @operation
    def find_by_username(self, username: str, /) -> Steps[User | None]:
        return find_first(self, "usernames", username)

    @operation
    def find_by_external_id(self, external_id: str, /) -> Steps[User | None]:
        return find_first(self, "external_ids", external_id)

    @operation
    def update(
        self,
        user: UserRef,
        /,
        *,
        if_version: int | None = None,
        idempotency_key: str | None = None,
        **changes: Unpack[UserPatch],
    ) -> Steps[User]:
        """A merge patch: an absent field stays as it is, None clears it. Raises UserNotFound, VersionMismatch."""
        return patch_user(self, user, changes, expected_version(user, if_version), idempotency_key)

    @operation
    def update_with(
        self, user: UserRef, function: Callable[[User], UserPatch | None], /, *, tries: int = 10
    ) -> Steps[User]:
        """Applies the changes that `function` makes of the current user; reads and calls it again if another one came
        first. None or no changes leave the user as it is. Raises VersionMismatch after so many tries.
        """
        path = user_path(user)
        for tried in range(tries):
            headers = {"Cache-Control": "no-cache"}
            current = yield from self.service.call(Request("GET", path, headers), parse_as(User))
            changes = function(current)
            if not changes:
                return current
            try:
                return (yield from patch_user(self, current, changes, current.version, None))
            except VersionMismatch:
                if tried + 1 == tries:
                    raise
        raise ValueError("tries: not positive")

    @operation
    def upsert(
        self, external_id: str, /, *, idempotency_key: str | None = None, **fields: Unpack[UpsertFields]
    ) -> Steps[User]:
        """Creates the user of this external id, or changes the given fields."""
        path = external_id_path(external_id)
        return self.service.write("PUT", path, parse_as(User), fields, key=idempotency_key)

    @operation
    def delete(self, user: UserRef, /, *, purge: bool = False, **options: Unpack[WriteOptions]) -> Steps[None]:
        """A deleted user can be restored; `purge` removes the row, and needs the scope `users:purge`."""
        path = add_query(user_path(user), {"purge": "true"} if purge else {})
        return write_user(self, "DELETE", path, parse_nothing, user, **options)

    @operation
    def restore(self, user: UserRef, /, **options: Unpack[WriteOptions]) -> Steps[User]:
        """Raises InvalidTransition, EmailTaken."""
        return write_user(self, "POST", user_path(user, "/restore"), parse_as(User), user, **options)

    @operation
    def suspend(self, user: UserRef, /, **options: Unpack[WriteOptions]) -> Steps[User]:
        """Raises InvalidTransition."""
        return write_user(self, "POST", user_path(user, "/suspend"), parse_as(User), user, **options)

    @operation
    def activate(self, user: UserRef, /, **options: Unpack[WriteOptions]) -> Steps[User]:
        """Raises InvalidTransition."""
        return write_user(self, "POST", user_path(user, "/activate"), parse_as(User), user, **options)

    @operation
    def record_login(self, user: UserRef, /, *, idempotency_key: str | None = None) -> Steps[None]:
        """Sets `last_login_at`."""
        return self.service.write("POST", user_path(user, "/login"), parse_nothing, key=idempotency_key)

    @operation
    def erase(self, user: UserRef, /, **options: Unpack[WriteOptions]) -> Steps[None]:
        """Removes all personal data for good; needs the scope `users:erase`."""
        return write_user(self, "POST", user_path(user, "/erase"), parse_nothing, user, **options)

    @operation
    def me(self) -> Steps[User]:
        """The user of the token."""
        return self.service.read(User, f"{USERS}/me")

    @operation
    def update_me(
        self, *, if_version: int | None = None, idempotency_key: str | None = None, **changes: Unpack[OwnPatch]
    ) -> Steps[User]:
        return self.service.write(
            "PATCH",
            f"{USERS}/me",
            parse_as(User),
            changes,
            key=idempotency_key,
            if_version=if_version,
            media_type=MERGE_PATCH,
        )

    @operation
    def export_person(self, user: UserRef, /) -> Steps[dict[str, Any]]:
        """All that is stored of one person, as the service answers it."""
        return self.service.call(Request("GET", user_path(user, "/export")), parse_object)

    @iteration
    def audit(self, user: UserRef, /) -> Emits[AuditEntry]:
        """Who changed a user and when, the oldest entry first."""
        return read_pages(self, TrailPage, user_path(user, "/audit"), {"limit": str(PAGE_SIZE)})

    @iteration
    def search_audit(
        self,
        *,
        actor: str | None = None,
        audit_type: AuditType | None = None,
        user: UserRef | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> Emits[AuditRecord]:
        """Changes and exports of all users, the newest first; needs the scope `audit:read`."""
        given = {"actor": actor, "type": audit_type, "after": after, "before": before}
        parameters = {**filter_parameters(given), "limit": str(PAGE_SIZE)}
        if user is not None:
            parameters["user_id"] = user_id(user)
        return read_pages(self, AuditPage, "/api/v1/audit", parameters)

    @iteration
    def list(self, *, sort: Sort = "created_at", page_size: int = PAGE_SIZE, **filters: Unpack[Filters]) -> Emits[User]:
        """All users that match the filters, read page by page while they are taken."""
        parameters = {**filter_parameters(filters), "sort": sort, "limit": str(page_size)}
        return read_pages(self, UserPage, USERS, parameters)

    @operation
    def count(self, **filters: Unpack[Filters]) -> Steps[int]:
        """The number of users that match the filters."""
        parameters = {**filter_parameters(filters), "limit": "1", "count": "true"}
        page = yield from self.service.read(UserPage, USERS, parameters)
        if page.total is None:
            raise UnexpectedResponse(200, "no total")
        return page.total


def read_pages(self: Resource, kind: type[Page[T]], path: str, parameters: Mapping[str, str]) -> Emits[T]:
    """The items of all pages; a page is read when the one before it has been taken."""
    place: dict[str, str] = {}
    while True:
        page = yield from self.service.read(kind, path, {**parameters, **place})
        yield from map(Emit, page.items)
        if page.next_cursor is None:
            return
        place = {"cursor": page.next_cursor}


def patch_user(self: Resource, user: UserRef, changes: UserPatch, version: int | None, key: str | None) -> Steps[User]:
    return self.service.write(
        "PATCH", user_path(user), parse_as(User), changes, key=key, if_version=version, media_type=MERGE_PATCH
    )


def write_user(
    self: Resource,
    method: str,
    path: str,
    parse: Parse[T],
    user: UserRef,
    *,
    if_version: int | None = None,
    idempotency_key: str | None = None,
) -> Steps[T]:
    version = expected_version(user, if_version)
    return self.service.write(method, path, parse, key=idempotency_key, if_version=version)


def find_first(self: Resource, kind: str, value: str) -> Steps[User | None]:
    found = yield from find_users(self, {kind: [value]})
    return found.found[0] if found.found else None


def parse_object(reply: Reply) -> dict[str, Any]:
    document = load_json(reply)
    if not isinstance(document, dict):
        raise UnexpectedResponse(reply.status, "no object")
    return document
