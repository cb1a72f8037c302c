"""Searches by boolean conditions. What names users is looked up first, which leaves columns with an index."""

from asyncio import gather
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, not_, or_, select, true, tuple_

from user_service.cache.dataloader import DataLoader
from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME, BlindIndex, encode_text
from user_service.encryption.cipher import Cipher, DecryptionError
from user_service.postgres.selects import compile_with_values
from user_service.postgres.session import Session
from user_service.postgres.tables import identifiers, users
from user_service.users.conditions import (
    EVERYONE,
    All,
    AnyOf,
    Comparison,
    Condition,
    Constant,
    ExternalIdStarts,
    HasStatus,
    Key,
    Named,
    Not,
    Time,
    TimeIs,
    is_narrow,
    names,
)
from user_service.users.cursors import Cursor
from user_service.users.encrypted_columns import decode_row
from user_service.users.model import User
from user_service.users.reader import SELECT_BY_KEYS
from user_service.users.search import SELECTED_COLUMNS
from user_service.users.search_query import SearchPage
from user_service.users.unit_of_work import UserDatabase
from user_service.values.case_folding import email_key, fold_case
from user_service.values.emails import parse_email
from user_service.values.ids import first_id_after, first_id_at, parse_canonical_id

# Behind the columns of `decode_row`, the statement has what found the user.
FOUND_BY: Final = 2
# Beside the kinds of identifiers, the order of which is that of the statement's parameters.
ID: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryQuery:
    """A page of the living users that meet a condition. `limit` may be 0, for the number of users alone."""

    condition: Condition
    by_update: bool = False
    descending: bool = False
    offset: int = 0
    limit: int
    cursor: Cursor | None = None
    count: bool = True


class Directory:
    """Reads living users by conditions, in transactions of its own. They raise DatabaseUnavailable, Contended."""

    def __init__(self, database: UserDatabase) -> None:
        self.database = database
        self.named: DataLoader[Named, Sequence[User]] = DataLoader(self.fetch)

    async def find(self, wanted: Iterable[Named]) -> list[User]:
        """The users of these names, in the order of their ids, from the server that takes writes. Concurrent searches
        share a round trip.
        """
        found = await gather(*map(self.named.load, set(wanted)))
        by_id = {user.id: user for users in found for user in users or ()}
        return [by_id[user_id] for user_id in sorted(by_id)]

    async def fetch(self, wanted: list[Named]) -> Mapping[Named, Sequence[User] | Exception]:
        async with self.database.primary.session() as session:
            return await DirectorySearch(session, self.database.cipher, self.database.index).find(wanted)

    async def page(self, query: DirectoryQuery) -> SearchPage[User]:
        """A page of users, which may lag behind a change by as much as the replica does."""
        return await self.database.lagging_reads.run(
            lambda search: DirectorySearch(search.session, search.cipher, search.index).page(query)
        )


class DirectorySearch:
    """Searches on one connection."""

    def __init__(self, session: Session, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.cipher = cipher
        self.index = index

    async def find(self, wanted: Iterable[Named]) -> dict[Named, Sequence[User] | Exception]:
        """The living users of each name, by one statement; or the error of one that can't be decrypted."""
        keys = {name: self.keys(name) for name in wanted}
        by_kind: dict[int, set[Any]] = {kind: set() for kind in (ID, EMAIL, EXTERNAL_ID, USERNAME)}
        for kind, key in {key for name_keys in keys.values() for key in name_keys}:
            by_kind[kind].add(key)
        if not any(by_kind.values()):
            return {}
        with self.session.traced(SELECT_BY_KEYS):
            rows = await self.session.connection.fetch(SELECT_BY_KEYS, *map(list, by_kind.values()))
        by_id = {row[0]: self.decode(row) for row in rows}
        found = {(row[-2], row[-1]): by_id[row[0]] for row in rows}
        found |= {(ID, user_id): user for user_id, user in by_id.items()}
        return {name: choose(name, [found[key] for key in keys[name] if key in found]) for name in keys}

    def decode(self, row: Any) -> User | Exception:
        try:
            return decode_row(row[:-FOUND_BY], self.cipher)
        except DecryptionError as error:
            return error

    def keys(self, name: Named) -> list[tuple[int, Any]]:
        """The kinds and indexes by which the users of a name are looked up."""
        if name.key is Key.ID:
            user_id = parse_canonical_id(name.value)
            return [] if user_id is None else [(ID, user_id)]
        if name.key is Key.EXTERNAL_ID:
            return [(EXTERNAL_ID, encode_text(name.value))]
        email = parse_email(name.value)
        keys: list[tuple[int, Any]] = [] if email is None else [(EMAIL, self.index.email(email))]
        if name.key is Key.USERNAME:
            keys.append((USERNAME, self.index.username(name.value.strip())))
        return keys

    async def page(self, query: DirectoryQuery) -> SearchPage[User]:
        wanted = list(names(query.condition))
        named = await self.find(wanted) if wanted else {}
        ids = {name: {user.id for user in unwrap(named.get(name, ()))} for name in wanted}
        matching = and_(users.c.deleted_at.is_(None), clause(query.condition, ids))
        if is_narrow(query.condition) or query.condition == EVERYONE:
            return await self.read(query, matching)
        async with self.session.planned_for_values():
            return await self.read(query, matching)

    async def read(self, query: DirectoryQuery, matching: ColumnElement[bool]) -> SearchPage[User]:
        found: Sequence[User] = []
        has_more = False
        if query.limit:
            rows = await self.session.execute(*compile_with_values(page_statement(query, matching)))
            found = [decode_row(row, self.cipher) for row in rows[: query.limit]]
            has_more = len(rows) > query.limit
        following = Cursor(found[-1].updated_at, found[-1].id) if has_more else None
        total = query.offset + len(found)
        # An empty first page says that there are none.
        is_known = not has_more and query.cursor is None and (found or (query.limit and not query.offset))
        if query.count and not is_known:
            counting = select(func.count()).select_from(users).where(matching)
            total = int((await self.session.execute(*compile_with_values(counting))).scalar_one())
        return SearchPage(list(found), following, total if query.count else None)


def page_statement(query: DirectoryQuery, matching: ColumnElement[bool]) -> Select[Any]:
    """Selects one more row than the page holds, which tells whether there is a next page."""
    keys: list[ColumnElement[Any]] = [users.c.updated_at, users.c.id] if query.by_update else [users.c.id]
    order = [key.desc() for key in keys] if query.descending else keys
    if query.cursor is not None:
        last = [query.cursor.updated_at, query.cursor.id] if query.by_update else [query.cursor.id]
        place, end = tuple_(*keys), tuple_(*last)
        matching = and_(matching, place < end if query.descending else place > end)
    if not query.offset:
        return select(*SELECTED_COLUMNS).where(matching).order_by(*order).limit(query.limit + 1)
    # Rows that are skipped are not decoded.
    ids = select(users.c.id).where(matching).order_by(*order).offset(query.offset).limit(query.limit + 1)
    return select(*SELECTED_COLUMNS).where(users.c.id.in_(ids)).order_by(*order)


def clause(condition: Condition, ids: Mapping[Named, Set[UUID]]) -> ColumnElement[bool]:
    """The condition in SQL, never null; `ids` are the users of each name."""
    match condition:
        case Named():
            return or_(false(), *(users.c.id == user_id for user_id in sorted(ids[condition])))
        case ExternalIdStarts(""):
            return users.c.external_id.is_not(None)
        case ExternalIdStarts(prefix):
            return users.c.id.in_(select(identifiers.c.user_id).where(*external_id_range(encode_text(prefix))))
        case HasStatus(statuses):
            return or_(false(), *(users.c.status == status for status in sorted(statuses)))
        case TimeIs():
            return time_clause(condition)
        case Constant(value):
            return true() if value else false()
        case Not(term):
            return not_(clause(term, ids))
        case All(terms):
            return and_(true(), *(clause(term, ids) for term in terms))
        case AnyOf(terms):
            return or_(false(), *(clause(term, ids) for term in terms))


def external_id_range(prefix: bytes) -> list[ColumnElement[bool]]:
    """The rows of `identifiers` whose external id begins with a text: a range of its key."""
    conditions = [identifiers.c.kind == EXTERNAL_ID, identifiers.c.index >= prefix]
    # UTF-8 never has the byte 255.
    return [*conditions, identifiers.c.index < prefix[:-1] + bytes([prefix[-1] + 1])]


def time_clause(condition: TimeIs) -> ColumnElement[bool]:
    moment = condition.moment
    if condition.time is Time.UPDATED:
        comparison: ColumnElement[bool] = users.c.updated_at.bool_op(condition.comparison.value)(moment)
        return comparison
    begin, end = users.c.id >= first_id_at(moment), users.c.id >= first_id_after(moment)
    match condition.comparison:
        case Comparison.LESS:
            return not_(begin)
        case Comparison.AT_MOST:
            return not_(end)
        case Comparison.AT_LEAST:
            return begin
        case Comparison.MORE:
            return end
    # Ids hold whole milliseconds.
    return and_(begin, not_(end)) if moment.microsecond % 1000 == 0 else false()


def choose(name: Named, found: Sequence[User | Exception]) -> Sequence[User] | Exception:
    """Those of the users found by the keys of a name that have it; or the error of one of them."""
    errors = [user for user in found if isinstance(user, Exception)]
    users = {user.id: user for user in found if isinstance(user, User) and is_living(user, name)}
    return errors[0] if errors else list(users.values())


def unwrap(users: Sequence[User] | Exception) -> Sequence[User]:
    if isinstance(users, Exception):
        raise users
    return users


def is_living(user: User, name: Named) -> bool:
    return not user.is_deleted and is_named(user, name)


def is_named(user: User, name: Named) -> bool:
    """Whether a user has this id or identifier."""
    match name.key:
        case Key.ID:
            return str(user.id) == name.value
        case Key.EXTERNAL_ID:
            return user.external_id == name.value
        case Key.USERNAME if user.username is not None:
            return fold_case(user.username) == fold_case(name.value.strip())
    email = parse_email(name.value)
    own = [user.email] if name.key is Key.USERNAME else [user.email, *user.aliases]
    return email is not None and email_key(email) in map(email_key, own)
