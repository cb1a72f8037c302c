"""Where the SCIM library reads and writes users: the service's own operations, in the transaction of the request."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from scim2_models import (
    InvalidCursorException,
    Meta,
    NotFoundException,
    Resource,
    ResourceType,
    ResponseParameters,
    ScimFilter,
    SearchRequest,
)
from scim2_server.storage import AsyncScimStorage, SearchPage

from user_service.errors import UsernameTaken, VersionMismatch
from user_service.scim.filters import translate
from user_service.scim.mapping import RESOURCE_TYPE, etag, new_body, to_document, update_body
from user_service.scim.models import MATCHING, UserResource
from user_service.users.conditions import EVERYONE, Condition, Key, Named, Time, follows_updates, is_narrow, names
from user_service.users.cursors import MICROSECOND, Cursor
from user_service.users.directory import Directory, DirectoryQuery, is_named
from user_service.users.model import User
from user_service.users.provisioning import ProvisionedUpdate, ProvisionedUser
from user_service.users.service import Outcome, UserService, single_user
from user_service.users.single_statement import NotAtOnce
from user_service.users.version_conditions import require_version
from user_service.values.case_folding import email_key
from user_service.values.emails import parse_email
from user_service.values.ids import EPOCH, parse_canonical_id

T = TypeVar("T")
SORTED_BY: Final = {"id": Time.CREATED, "meta.created": Time.CREATED, "meta.lastmodified": Time.UPDATED}


@dataclass
class StoredUser:
    """A user as the library's handler passes it from the storage to the service, which renders it.

    It stands in for the library's model, which takes twenty times as long to make and to copy as the document.
    """

    user: User

    @cached_property
    def document(self) -> dict[str, Any]:
        return to_document(self.user)

    @property
    def id(self) -> str:
        return str(self.user.id)

    @property
    def version(self) -> str:
        """The ETag."""
        return etag(self.user.version)

    @property
    def meta(self) -> Meta:
        return Meta.model_construct(resource_type=RESOURCE_TYPE, version=self.version)

    def to_resource(self) -> Resource[Any]:
        """The library's model."""
        return UserResource.model_validate(self.document)

    def as_resource(self) -> Resource[Any]:
        """This object, as the library's signatures call it."""
        return cast("Resource[Any]", self)


@dataclass
class UserStorage(AsyncScimStorage):
    """`users` are the operations of the request's transaction; None for a request that only reads."""

    supports_cursors = True

    directory: Directory
    users: UserService | None = None
    # The users that this request has locked, as they are now.
    locked: dict[UUID, User] = field(default_factory=dict)
    # The number of users that a request which only reads has read, for the log.
    rows: int = 0

    @property
    def changes(self) -> UserService:
        assert self.users is not None
        return self.users

    async def get(
        self,
        resource_type: ResourceType,
        resource_id: str,
        *,
        response_parameters: ResponseParameters[Any] | None = None,
    ) -> Resource[Any]:
        """A living user. A request that changes something locks it, or writes only if it is still the same.

        Raises NotFoundException.
        """
        user_id = parse_canonical_id(resource_id)
        user: User | None = None
        if user_id is not None and self.users is not None:
            user = (await self.users.repository.lock([user_id])).get(user_id)
        elif user_id is not None:
            user = next(iter(await self.directory.find([Named(Key.ID, resource_id)])), None)
        if user is None or user.is_deleted:
            raise NotFoundException(detail="No such user.")
        if self.users is not None:
            self.locked[user.id] = user
        else:
            self.rows += 1
        return StoredUser(user).as_resource()

    async def search(
        self, resource_types: list[ResourceType], search_request: SearchRequest[Any], *, position: Any = None
    ) -> SearchPage:
        if not resource_types:
            return SearchPage(0, [])
        condition = translate(search_request.filter) if search_request.filter is not None else EVERYONE
        if is_narrow(condition):
            page = await self.find_page(condition, search_request, position)
        else:
            page = await self.read_page(condition, search_request, position)
        self.rows += len(page.resources)
        return page

    async def find_page(self, condition: Condition, search_request: SearchRequest[Any], position: Any) -> SearchPage:
        """A page of the few users that a filter names."""
        found = await self.directory.find(names(condition))
        matching = list(filter(self.predicate(condition, search_request.filter), found))
        by_update, descending = read_order(search_request, condition)
        matching.sort(key=lambda user: (user.updated_at if by_update else EPOCH, user.id), reverse=descending)
        start = search_request.start_index_0
        if start is None:
            last = read_position(position)
            if last is not None:
                matching = [user for user in matching if is_after(user, last, by_update, descending)]
            start = 0
        count = search_request.count if search_request.count is not None else len(matching)
        shown = matching[start : start + count]
        more = shown and start + count < len(matching)
        return make_page(shown, len(matching), write_position(shown[-1]) if more else None)

    def predicate(self, condition: Condition, scim_filter: ScimFilter[Any] | None) -> Callable[[User], bool]:
        if isinstance(condition, Named):
            return lambda user: is_named(user, condition)
        assert scim_filter is not None
        bound: ScimFilter[Any] = ScimFilter[UserResource](str(scim_filter))

        def matches(user: User) -> bool:
            with MATCHING:
                return bound.match(StoredUser(user).to_resource())

        return matches

    async def read_page(self, condition: Condition, search_request: SearchRequest[Any], position: Any) -> SearchPage:
        """A page of the users that meet a condition, in the order of an index."""
        by_update, descending = read_order(search_request, condition)
        by_cursor = search_request.cursor is not None
        query = DirectoryQuery(
            condition=condition,
            by_update=by_update,
            descending=descending,
            offset=search_request.start_index_0 or 0,
            limit=search_request.count or 0,
            cursor=read_position(position),
            count=not by_cursor or search_request.count == 0,
        )
        page = await self.directory.page(query)
        return make_page(page.users, page.total, write_position(page.users[-1]) if page.next is not None else None)

    async def create(self, resource_type: ResourceType, resource: Resource[Any]) -> Resource[Any]:
        """A new user. Raises ValidationFailed, EmailTaken, UsernameTaken, ExternalIdTaken."""
        return await self.create_document(resource.model_dump(mode="json"))

    async def create_document(self, document: Mapping[str, Any]) -> Resource[Any]:
        """A new user. Raises what `create` does."""
        return StoredUser(single_user(await self.create_all([new_body(document)]))).as_resource()

    async def create_all(self, bodies: Sequence[ProvisionedUser]) -> list[Outcome]:
        """New users as one set. Errors: EmailTaken, UsernameTaken, ExternalIdTaken, DuplicateInBatch."""
        taken = await self.find_shown_names([(None, body) for body in bodies])
        return await write_others(taken, bodies, self.changes.create)

    async def update(
        self, resource_type: ResourceType, resource: Resource[Any], *, expected_version: str | None = None
    ) -> Resource[Any]:
        """Makes a user that `get` has locked what the resource says. Raises what `write` does."""
        return await self.write(self.locked[UUID(resource.id)], resource.model_dump(mode="json"))

    async def write(self, before: User, document: Mapping[str, Any]) -> Resource[Any]:
        """Makes a locked user what the document says. Raises ValidationFailed, EmailTaken, UsernameTaken,
        ExternalIdTaken.
        """
        user = single_user(await self.update_all([(before, update_body(document, before))]))
        self.locked[user.id] = user
        return StoredUser(user).as_resource()

    async def update_all(self, changes: Sequence[tuple[User, ProvisionedUpdate]]) -> list[Outcome]:
        """Changes users that were read as one set. Errors: those of `create_all`. Raises NotAtOnce."""
        taken = await self.find_shown_names(changes)
        patches = [(user.id, require_version(user.version), body) for user, body in changes]
        return check_unchanged(await write_others(taken, patches, self.changes.update))

    async def delete(
        self, resource_type: ResourceType, resource_id: str, *, expected_version: str | None = None
    ) -> None:
        """Deletes a user that `get` has locked; it can be restored by the service's own interface."""
        user = self.locked.pop(UUID(resource_id))
        single_user(await self.delete_all([StoredUser(user)]))

    async def delete_all(self, users: Sequence[StoredUser]) -> list[Outcome]:
        """Deletes users that were read as one set. Raises NotAtOnce."""
        outcomes = await self.changes.delete(
            [(stored.user.id, require_version(stored.user.version)) for stored in users]
        )
        return check_unchanged(outcomes)

    async def find_shown_names(
        self, changes: Sequence[tuple[User | None, ProvisionedUser | ProvisionedUpdate]]
    ) -> set[int]:
        """The places of those changes that ask for a username which another user shows as its own.

        A user without a username shows its e-mail address. `changes` are users, None for new ones, and their bodies.
        """
        wanted: dict[int, str] = {}
        for place, (_, body) in enumerate(changes):
            email = parse_email(body.username or "")
            own = {email_key(address) for address in (body.email, *(body.aliases or ()))}
            if email is not None and email_key(email) not in own:
                wanted[place] = email
        if not wanted:
            return set()
        holders = await self.changes.repository.find_by_emails(set(wanted.values()))
        shown = {
            email: holder.id
            for email, holder in holders.items()
            if holder.username is None and email_key(holder.email) == email_key(email)
        }
        own_ids = {place: before.id if before is not None else None for place, (before, _) in enumerate(changes)}
        return {place for place, email in wanted.items() if email in shown and shown[email] != own_ids[place]}

    @asynccontextmanager
    async def undone_on_error(self) -> AsyncIterator[None]:
        """Undoes the changes within when one fails, without ending the transaction."""
        locked = dict(self.locked)
        try:
            async with self.changes.undone_on_error():
                yield
        except Exception:
            self.locked = locked
            raise


async def write_others(
    taken: Set[int], items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[list[Outcome]]]
) -> list[Outcome]:
    """The outcomes of a set, in which the items at these places ask for a username that is taken."""
    others = iter(await write([item for place, item in enumerate(items) if place not in taken]))
    return [Outcome("failed", error=UsernameTaken()) if place in taken else next(others) for place in range(len(items))]


def check_unchanged(outcomes: list[Outcome]) -> list[Outcome]:
    """Raises NotAtOnce where another request has changed a user since it was read, which the lock of a transaction
    prevents.
    """
    if any(isinstance(outcome.error, VersionMismatch) for outcome in outcomes):
        raise NotAtOnce
    return outcomes


def make_page(users: Sequence[User], total: int | None, following: Any) -> SearchPage:
    return SearchPage(total, [StoredUser(user).as_resource() for user in users], following)


def read_order(search_request: SearchRequest[Any], condition: Condition) -> tuple[bool, bool]:
    """Whether users are in the order of their last change, not of their creation, and whether it is descending.

    Other attributes are sealed: RFC 7644, 3.4.2.3 lets a provider pass an order over.
    """
    path = str(search_request.sort_by).rpartition(":User:")[2].lower() if search_request.sort_by is not None else ""
    time = SORTED_BY.get(path)
    if time is None:
        return follows_updates(condition), False
    return time is Time.UPDATED, search_request.sort_order == SearchRequest.SortOrder.descending


def is_after(user: User, last: Cursor, by_update: bool, descending: bool) -> bool:
    place = (user.updated_at if by_update else EPOCH, user.id)
    end = (last.updated_at if by_update else EPOCH, last.id)
    return place < end if descending else place > end


def write_position(user: User) -> list[Any]:
    """The end of a page, which the library seals into a cursor."""
    return [(user.updated_at - EPOCH) // MICROSECOND, str(user.id)]


def read_position(position: Any) -> Cursor | None:
    """Raises InvalidCursorException."""
    if position is None:
        return None
    try:
        microseconds, user_id = position
        return Cursor(EPOCH + microseconds * MICROSECOND, UUID(user_id))
    except (TypeError, ValueError):
        raise InvalidCursorException from None
