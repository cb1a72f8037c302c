"""The list of users: filters, two orders, keyset pages. The order of `created_at` is that of ids, see values/ids.py.

Every query uses an index: the primary key, `(updated_at, id)`, `(status, id)`, an identifier, a phone number, or the
postings of a term.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, cast, false, func, select, text, tuple_, union_all

from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME, BlindIndex, encode_text, unpack_term
from user_service.encryption.cipher import Cipher
from user_service.postgres.session import Session
from user_service.postgres.tables import identifiers, user_terms, users
from user_service.users.cursors import Cursor
from user_service.users.encrypted_columns import USER_COLUMNS, decode_row
from user_service.users.model import DELETED, User
from user_service.values.ids import first_id_after, first_id_at
from user_service.values.name_words import split_words

EXPORT_ROWS: Final = 1000
# server/protocol.py closes the connection of a reader after 60 s.
IDLE_FOR_READER: Final = text("SELECT set_config('idle_in_transaction_session_timeout', '75s', true)")
SELECTED_COLUMNS: Final = tuple(
    cast(users.c.metadata, Text) if name == "metadata" else users.c[name] for name in USER_COLUMNS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """The parameters of a page of the list."""

    email: str | None = None
    email_domain: str | None = None
    username: str | None = None
    phone: str | None = None
    external_id: str | None = None
    status: str | None = None
    q: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    include_deleted: bool = False
    sort: str = "created_at"
    limit: int = 50
    cursor: Cursor | None = None
    count: bool = False

    @property
    def by_update(self) -> bool:
        return self.sort.endswith("updated_at")

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")

    @property
    def names_key(self) -> bool:
        """Whether it finds by a unique key, which callers do to see what they have just written."""
        return self.email is not None or self.username is not None or self.external_id is not None

    @property
    def sees_deleted(self) -> bool:
        return self.include_deleted or self.status == DELETED


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Users in the requested order, and the cursor of the next page; None on the last page.

    `total` is the number of users on all pages, None where the query does not count them.
    """

    users: list[User]
    next: Cursor | None
    total: int | None = None


class UserSearch:
    """Pages of users. In id order, a user that exists from the first page to the last is on exactly one."""

    def __init__(self, session: Session, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.cipher = cipher
        self.index = index

    async def page(self, query: SearchQuery) -> SearchPage:
        rows = await self.session.execute(self.statement(query))
        found = [decode_row(row, self.cipher) for row in rows[: query.limit]]
        more = len(rows) > query.limit
        total = await self.count(query) if query.count else None
        return SearchPage(found, Cursor(found[-1].updated_at, found[-1].id) if more else None, total)

    async def count(self, query: SearchQuery) -> int:
        """The number of users that match the filters."""
        matching = self.filtered(replace(query, cursor=None))
        counting = matching.with_only_columns(func.count(), maintain_column_froms=True)
        return int((await self.session.execute(counting)).scalar_one())

    async def all_users(self, query: SearchQuery) -> AsyncGenerator[list[User]]:
        """All users that match the filters, in the order of ids, a thousand at a time, by a server-side cursor."""
        await wait_for_reader(self.session)
        statement = self.filtered(query).order_by(users.c.id)
        async for some in self.session.stream(statement, size=EXPORT_ROWS):
            yield [decode_row(row, self.cipher) for row in some]

    async def last_changed(self, limit: int) -> list[UUID]:
        """The ids of the last changed living users, the newest change first."""
        newest = select(users.c.id).where(users.c.deleted_at.is_(None)).order_by(users.c.updated_at.desc()).limit(limit)
        return (await self.session.execute(newest)).scalars()

    def statement(self, query: SearchQuery) -> Select[Any]:
        """Selects one more row than the page holds, which tells whether there is a next page."""
        keys = (users.c.updated_at, users.c.id) if query.by_update else (users.c.id,)
        order = [key.desc() for key in keys] if query.descending else list(keys)
        return self.filtered(query).order_by(*order).limit(query.limit + 1)

    def filtered(self, query: SearchQuery) -> Select[Any]:
        postings = [(user_terms.alias(), term) for term in self.terms(query)]
        # The ids of user and postings are equal: the planner scans the index in which it expects the fewest rows.
        ids: list[ColumnElement[UUID]] = [users.c.id, *(posting.c.user_id for posting, _ in postings)]
        conditions = [posting.c.term == term for posting, term in postings]
        conditions += [users.c.id == posting.c.user_id for posting, _ in postings]
        if query.q is not None and not split_words(query.q):
            conditions.append(false())
        return select(*SELECTED_COLUMNS).where(
            *conditions, *self.column_conditions(query), *self.range_conditions(query, ids)
        )

    def terms(self, query: SearchQuery) -> list[int]:
        terms = {self.index.pair(name, value) for name, value in query.metadata.items()}
        terms |= {self.index.word(word) for word in split_words(query.q or "")}
        if query.email_domain is not None:
            terms.add(self.index.domain(query.email_domain))
        return sorted(terms)

    def holders(self, query: SearchQuery) -> list[ColumnElement[bool]]:
        """The conditions of the identifiers that a query names."""
        found = []
        if query.email is not None:
            email = self.index.email(query.email)
            found.append((EMAIL, email, email))
        if query.username is not None:
            username = self.index.username(query.username)
            found.append((USERNAME, username, username))
        if query.external_id is not None:
            found.append((EXTERNAL_ID, encode_text(query.external_id), self.index.external_id(query.external_id)))
        return [holds(kind, key, unpack_term(value) if query.sees_deleted else None) for kind, key, value in found]

    def column_conditions(self, query: SearchQuery) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if not query.sees_deleted:
            conditions.append(users.c.deleted_at.is_(None))
        if query.status is not None:
            conditions.append(users.c.status == query.status)
        if query.phone is not None:
            conditions.append(users.c.phone_index == self.index.phone(query.phone))
        if query.updated_after is not None:
            conditions.append(users.c.updated_at > query.updated_after)
        conditions += self.holders(query)
        return conditions

    def range_conditions(self, query: SearchQuery, ids: list[ColumnElement[UUID]]) -> list[ColumnElement[bool]]:
        """Repeated for each column that holds the id: the planner does not derive inequalities for equal columns."""
        conditions: list[ColumnElement[bool]] = []
        if query.created_after is not None:
            first = first_id_after(query.created_after)
            conditions += [key >= first for key in ids]
        if query.created_before is not None:
            end = first_id_at(query.created_before)
            conditions += [key < end for key in ids]
        if query.cursor is None:
            return conditions
        if query.by_update:
            place, last = (tuple_(users.c.updated_at, users.c.id), tuple_(query.cursor.updated_at, query.cursor.id))
            conditions.append(place < last if query.descending else place > last)
        else:
            last_id = query.cursor.id
            conditions += [key < last_id if query.descending else key > last_id for key in ids]
        return conditions


async def wait_for_reader(session: Session) -> None:
    """Lets the transaction idle for longer than the server of this process waits for a reader that takes no data."""
    await session.execute(IDLE_FOR_READER)


def holds(kind: int, key: bytes, term: int | None) -> ColumnElement[bool]:
    """Whether a user holds an identifier, or is deleted and had the one of a term."""
    living = select(identifiers.c.user_id).where(identifiers.c.kind == kind, identifiers.c.index == key)
    if term is None:
        return users.c.id == living.scalar_subquery()
    # Terms of eight bytes: another user's, by chance, would be one in 10^19.
    gone = select(user_terms.c.user_id).where(user_terms.c.term == term)
    return users.c.id.in_(union_all(living, gone))
