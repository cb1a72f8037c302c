"""The list of users: filters, two orders, keyset pages. The order of `created_at` is that of ids, see values/ids.py.

Every query uses an index: the primary key, `(updated_at, id)`, `(status, id)`, an identifier, a phone number, or the
postings of a term.
"""

from collections.abc import AsyncGenerator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Select,
    Text,
    bindparam,
    cast,
    false,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
)

from user_service.encryption.blind_index import BlindIndex, unpack_term
from user_service.encryption.cipher import Cipher
from user_service.postgres.selects import COMPILED_SHAPES, compile_select
from user_service.postgres.session import Row, Rows, Session
from user_service.postgres.statements import Statement, text
from user_service.postgres.tables import identifiers, user_terms, users
from user_service.users.cursors import Cursor
from user_service.users.encrypted_columns import USER_COLUMNS, decode_row
from user_service.users.model import User
from user_service.users.search_query import SearchPage, SearchQuery, find_named
from user_service.values.ids import EPOCH, first_id_after, first_id_at
from user_service.values.name_words import split_words

EXPORT_ROWS: Final = 1000
# Counting reads what it counts: a million users take about half of this.
COUNT_SECONDS: Final = 1.0
LAST_CHANGED: Final = text("SELECT id FROM users WHERE deleted_at IS NULL ORDER BY updated_at DESC LIMIT :limit")
SELECTED_COLUMNS: Final = tuple(
    cast(users.c.metadata, Text) if name == "metadata" else users.c[name] for name in USER_COLUMNS
)
# The time where the order is that of changes: reading it takes longer than reading the others.
BRIEF_COLUMNS: Final = (users.c.id, users.c.version, users.c.updated_at)


class Shape(NamedTuple):
    """What queries have in common that differ in values only."""

    kinds: tuple[int, ...]
    terms: int
    finds_nothing: bool
    status: bool
    phone: bool
    created_after: bool
    created_before: bool
    updated_after: bool
    cursor: bool
    sees_deleted: bool
    by_update: bool
    descending: bool

    @property
    def is_filtered(self) -> bool:
        """Whether the best plan depends on how many users have the values that are asked for."""
        return bool(self.terms or self.status or self.created_after or self.created_before or self.updated_after)


class UserSearch:
    """Pages of users. In id order, a user that exists from the first page to the last is on exactly one."""

    def __init__(self, session: Session, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.cipher = cipher
        self.index = index

    async def page(self, query: SearchQuery, *, brief: bool = False) -> SearchPage[Row]:
        """The rows of `USER_COLUMNS` of a page; with `brief`, those of its `BRIEF_COLUMNS`."""
        shape, values = self.parse(query)
        rows = await self.read(compile_page(shape, brief=brief), values, shape)
        found = rows[: query.limit]
        total = await self.count(query, seconds=COUNT_SECONDS) if query.counted else None
        return SearchPage(found, make_cursor(found[-1], shape) if len(rows) > query.limit else None, total)

    async def count(self, query: SearchQuery, *, seconds: float) -> int | None:
        """The number of users that match the filters; None where counting takes longer."""
        shape, values = self.parse(query._replace(cursor=None))
        try:
            return int((await self.read(compile_count(shape), values, shape, seconds=seconds)).scalar_one())
        except TimeoutError:
            return None

    async def read(
        self, statement: Statement, values: Mapping[str, object], shape: Shape, *, seconds: float | None = None
    ) -> Rows:
        if not shape.is_filtered:
            return await self.session.execute(statement, values, seconds=seconds)
        async with self.session.planned_for_values():
            return await self.session.execute(statement, values, seconds=seconds)

    async def all_users(self, query: SearchQuery) -> AsyncGenerator[list[User]]:
        """All users that match the filters, in the order of ids, a thousand at a time, by a server-side cursor."""
        await self.session.wait_for_reader()
        await self.session.plan_for_values()
        shape, values = self.parse(query)
        async for some in self.session.stream(compile_export(shape), values, size=EXPORT_ROWS):
            yield [decode_row(row, self.cipher) for row in some]

    async def last_changed(self, limit: int) -> list[UUID]:
        """The ids of the last changed living users, the newest change first."""
        return (await self.session.execute(LAST_CHANGED, {"limit": limit})).scalars()

    def statement(self, query: SearchQuery) -> tuple[str, list[Any]]:
        """The SQL of a page and its arguments."""
        shape, values = self.parse(query)
        page = compile_page(shape)
        return page.sql, page.arguments(values)

    def parse(self, query: SearchQuery) -> tuple[Shape, dict[str, Any]]:
        """The shape of a query, and the values of the parameters of the statements of that shape."""
        terms, named, cursor = self.terms(query), find_named(query, self.index), query.cursor
        shape = Shape(
            kinds=tuple(kind for kind, _, _ in named),
            terms=len(terms),
            finds_nothing=query.q is not None and not split_words(query.q),
            status=query.status is not None,
            phone=query.phone is not None,
            created_after=query.created_after is not None,
            created_before=query.created_before is not None,
            updated_after=query.updated_after is not None,
            cursor=cursor is not None,
            sees_deleted=query.sees_deleted,
            by_update=query.by_update,
            descending=query.descending,
        )
        values: dict[str, Any] = {f"term_{place}": term for place, term in enumerate(terms)}
        for kind, key, value in named:
            values |= {f"index_{kind}": key, f"former_{kind}": unpack_term(value)}
        values |= {
            "status": query.status,
            "phone": self.index.phone(query.phone),
            "first_id": first_id_after(query.created_after) if query.created_after is not None else None,
            "end_id": first_id_at(query.created_before) if query.created_before is not None else None,
            "updated_after": query.updated_after,
            "last_id": cursor.id if cursor is not None else None,
            "last_updated_at": cursor.updated_at if cursor is not None else None,
            # One more row than the page holds tells whether there is a next page.
            "rows": query.limit + 1,
        }
        return shape, values

    def terms(self, query: SearchQuery) -> list[int]:
        terms = {self.index.pair(name, value) for name, value in query.metadata.items()}
        if query.q is not None:
            terms |= self.index.wanted_terms(query.q)
        if query.email_domain is not None:
            terms.add(self.index.domain(query.email_domain))
        return sorted(terms)


@lru_cache(maxsize=COMPILED_SHAPES)
def compile_page(shape: Shape, *, brief: bool = False) -> Statement:
    keys = (users.c.updated_at, users.c.id) if shape.by_update else (users.c.id,)
    order = [key.desc() for key in keys] if shape.descending else list(keys)
    page = filtered(shape).order_by(*order).limit(bindparam("rows", type_=BigInteger))
    if brief:
        page = page.with_only_columns(*BRIEF_COLUMNS[: 3 if shape.by_update else 2], maintain_column_froms=True)
    return compile_select(page)


def make_cursor(row: Row, shape: Shape) -> Cursor:
    """The cursor behind a row. The order of ids needs no time."""
    return Cursor(row["updated_at"] if shape.by_update else EPOCH, row["id"])


@lru_cache(maxsize=COMPILED_SHAPES)
def compile_count(shape: Shape) -> Statement:
    return compile_select(filtered(shape).with_only_columns(func.count(), maintain_column_froms=True))


@lru_cache(maxsize=COMPILED_SHAPES)
def compile_export(shape: Shape) -> Statement:
    return compile_select(filtered(shape).order_by(users.c.id))


def filtered(shape: Shape) -> Select[Any]:
    postings = [user_terms.alias() for _ in range(shape.terms)]
    # The ids of user and postings are equal: the planner scans the index in which it expects the fewest rows.
    ids: list[ColumnElement[UUID]] = [users.c.id, *(posting.c.user_id for posting in postings)]
    conditions = [
        posting.c.term == parameter(f"term_{place}", posting.c.term) for place, posting in enumerate(postings)
    ]
    conditions += [users.c.id == posting.c.user_id for posting in postings]
    if shape.finds_nothing:
        conditions.append(false())
    return select(*SELECTED_COLUMNS).where(*conditions, *column_conditions(shape), *range_conditions(shape, ids))


def column_conditions(shape: Shape) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if not shape.sees_deleted:
        conditions.append(users.c.deleted_at.is_(None))
    if shape.status:
        conditions.append(users.c.status == parameter("status", users.c.status))
    if shape.phone:
        conditions.append(users.c.phone_index == parameter("phone", users.c.phone_index))
    if shape.updated_after:
        conditions.append(users.c.updated_at > parameter("updated_after", users.c.updated_at))
    conditions += [holds(kind, deleted_too=shape.sees_deleted) for kind in shape.kinds]
    return conditions


def range_conditions(shape: Shape, ids: list[ColumnElement[UUID]]) -> list[ColumnElement[bool]]:
    """Repeated for each column that holds the id: the planner does not derive inequalities for equal columns."""
    conditions: list[ColumnElement[bool]] = []
    if shape.created_after:
        conditions += [key >= parameter("first_id", users.c.id) for key in ids]
    if shape.created_before:
        conditions += [key < parameter("end_id", users.c.id) for key in ids]
    if not shape.cursor:
        return conditions
    last_id = parameter("last_id", users.c.id)
    if shape.by_update:
        place = tuple_(users.c.updated_at, users.c.id)
        last = tuple_(parameter("last_updated_at", users.c.updated_at), last_id)
        conditions.append(place < last if shape.descending else place > last)
    else:
        conditions += [key < last_id if shape.descending else key > last_id for key in ids]
    return conditions


def parameter(name: str, column: ColumnElement[Any]) -> BindParameter[Any]:
    return bindparam(name, type_=column.type)


def holds(kind: int, *, deleted_too: bool) -> ColumnElement[bool]:
    """Whether a user holds an identifier, or is deleted and had it."""
    living = select(identifiers.c.user_id).where(
        identifiers.c.kind == literal_column(str(kind)),
        identifiers.c.index == parameter(f"index_{kind}", identifiers.c.index),
    )
    if not deleted_too:
        return users.c.id == living.scalar_subquery()
    # Terms of eight bytes: another user's, by chance, would be one in 10^19.
    gone = select(user_terms.c.user_id).where(user_terms.c.term == parameter(f"former_{kind}", user_terms.c.term))
    return users.c.id.in_(union_all(living, gone))
