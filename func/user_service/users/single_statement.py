"""The change of one user as one statement, which is a transaction by itself: one round trip instead of four or more.

1. An operation runs on a repository that reads without locks, and collects what is to be written.
2. `write` sends all of it as one statement: user, identifiers, terms, change log, outbox, feed, stored response.
3. The statement locks the user, and writes nothing unless it still has the version that was read and each identifier
   that is asked for is free.
4. Where it writes nothing, and for what it can't do, NotAtOnce is raised. The caller runs the operation again in a
   transaction, which does the same in steps and finds out what is wrong.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.errors import ServiceError
from user_service.postgres.database import Database
from user_service.postgres.distribution import is_unique_violation
from user_service.postgres.session import Row, Rows, Session
from user_service.postgres.statements import Statement, text
from user_service.users.bulk_insert import InsertRows
from user_service.users.change_log import CHANGE_COLUMNS, Change, Origin
from user_service.users.column_arrays import COLUMN_TYPES, INITIAL_VALUES, column_arrays
from user_service.users.encrypted_columns import decode_row
from user_service.users.identifiers import Identifier, Move, compare_terms
from user_service.users.model import User
from user_service.users.repository import (
    ALL_BY_IDS,
    OUTBOX_PARTITION,
    UserRepository,
)
from user_service.values.ids import new_id

ID: Final = "CAST(:id AS uuid)"
VERSION: Final = "CAST(:version AS integer)"
AT: Final = "CAST(:at AS timestamptz)"
COLUMNS: Final = ", ".join(COLUMN_TYPES)
VALUES: Final = {name: f"CAST(:{name} AS {kind})" for name, kind in COLUMN_TYPES.items()} | {
    "metadata": "CAST(CAST(:metadata AS text) AS jsonb)"
}
IS_ALLOWED: Final = "(SELECT it FROM allowed)"
LOCKED: Final = (
    f"locked AS MATERIALIZED (SELECT FROM users WHERE id = {ID} AND version = {VERSION} - 1 AND {{}} FOR UPDATE)"
)
IS_LOCKED: Final = "EXISTS (SELECT FROM locked)"
CLAIMED_ROWS: Final = "unnest(CAST(:claimed_kinds AS smallint[]), CAST(:claimed_indexes AS bytea[])) AS v(kind, index)"
ALL_FREE: Final = f"NOT EXISTS (SELECT FROM identifiers i JOIN {CLAIMED_ROWS} ON i.kind = v.kind AND i.index = v.index)"
INSERTED: Final = (
    f"inserted AS (INSERT INTO users ({COLUMNS})"  # noqa: S608
    f" SELECT {', '.join((VALUES | INITIAL_VALUES)[name] for name in COLUMN_TYPES)} FROM go)"
)
UPDATED: Final = (
    f"updated AS (UPDATE users SET ({COLUMNS}) = ROW({', '.join(VALUES.values())})"  # noqa: S608
    f" FROM go WHERE users.id = {ID})"
)
CLAIMED: Final = (
    f"claimed AS (INSERT INTO identifiers (kind, index, user_id) SELECT v.kind, v.index, {ID}"  # noqa: S608
    f" FROM go, {CLAIMED_ROWS} ORDER BY v.kind, length(v.index), v.index)"
)
FREED: Final = (
    "freed AS (DELETE FROM identifiers AS i USING go,"  # noqa: S608
    " unnest(CAST(:freed_kinds AS smallint[]), CAST(:freed_indexes AS bytea[])) AS v(kind, index)"
    f" WHERE i.kind = v.kind AND i.index = v.index AND i.user_id = {ID})"
)
ADDED_TERMS: Final = (
    f"added AS (INSERT INTO user_terms (term, user_id) SELECT v.term, {ID}"  # noqa: S608
    " FROM go, unnest(CAST(:added_terms AS bigint[])) AS v(term) ORDER BY v.term ON CONFLICT DO NOTHING)"
)
REMOVED_TERMS: Final = (
    f"removed AS (DELETE FROM user_terms USING go WHERE user_id = {ID}"  # noqa: S608
    " AND term = ANY(CAST(:removed_terms AS bigint[])))"
)
LOGGED: Final = (
    f"logged AS (INSERT INTO user_changes ({CHANGE_COLUMNS}) SELECT {ID}, {VERSION}, CAST(:event_id AS uuid),"  # noqa: S608
    f" CAST(:type AS text), CAST(:status AS text), CAST(:changed AS text[]), {AT}, CAST(:actor AS text),"
    " CAST(:request_id AS text), CAST(:traceparent AS text), CAST(:reason AS text) FROM go)"
)
QUEUED: Final = (
    f"queued AS (INSERT INTO feed_queue (changed_at, user_ids, versions) SELECT {AT}, ARRAY[{ID}], ARRAY[{VERSION}]"  # noqa: S608
    " FROM go)"
)
PENDING: Final = (
    "pending AS (INSERT INTO outbox (partition, user_id, version, changed_at)"  # noqa: S608
    f" SELECT {OUTBOX_PARTITION.format(ID)}, {ID}, {VERSION}, {AT} FROM go)"
)


# Gives the row of `USER_COLUMNS` of a user, which may be read with those of concurrent requests.
LoadRow = Callable[[UUID], Awaitable[Row | None]]


class NotAtOnce(Exception):
    """Nothing was written: run the operation in a transaction."""


class Companion(NamedTuple):
    """What is written with the user: parts of a WITH clause that read from part `go`, and their parameters.

    Nothing is locked or written unless `condition` is true.
    """

    condition: str
    parts: Sequence[str]
    values: Mapping[str, Any]


class StatementRepository(UserRepository):
    """Reads users without locks, and collects the change of one. `write` writes it.

    Each statement runs on a connection of its own, so that no connection is held while the row of a user is awaited.
    Its methods raise NotAtOnce for what it can't do.
    """

    inserted: InsertRows | None = None
    pair: tuple[User, User] | None = None
    moves: Sequence[Move] = ()
    logged: dict[str, Any] | None = None
    companion: Companion | None = None

    def __init__(self, database: Database, cipher: Cipher, index: BlindIndex, *, load: LoadRow) -> None:
        self.database = database
        self.cipher = cipher
        self.index = index
        self.load = load

    @property
    def session(self) -> Session:  # type: ignore[override]
        """Raises NotAtOnce: what needs one session needs a transaction."""
        raise NotAtOnce

    async def run(self, statement: Statement, values: Mapping[str, object]) -> Rows:
        async with self.database.session() as session:
            return await session.execute(statement, values)

    async def lock(self, ids: Iterable[UUID]) -> dict[UUID, User]:
        """The users of these ids, deleted ones too; `write` locks the one that was changed."""
        rows = [row for user_id in ids if (row := await self.load(user_id)) is not None]
        return {row[0]: decode_row(row, self.cipher) for row in rows}

    async def insert(self, new: Sequence[User], rows: InsertRows | None = None) -> dict[UUID, ServiceError]:
        self.refuse_second()
        if single(new) is not None:
            self.inserted = self.current_rows(new, rows)
        return {}

    async def update(self, pairs: Sequence[tuple[User, User]], moves: Sequence[Move]) -> dict[UUID, ServiceError]:
        self.refuse_second()
        self.pair = single(pairs)
        self.moves = moves
        return {}

    async def append_changes(self, changes: Sequence[Change], origin: Origin, at: datetime) -> None:
        change = single(changes)
        if change is not None and self.logged is not None:
            raise NotAtOnce
        if change is not None:
            self.logged = {
                "id": change.user.id,
                "version": change.user.version,
                "event_id": new_id(),
                "type": change.type,
                "status": change.user.status,
                "changed": change.changed,
                "at": at,
                **origin.columns,
            }

    def refuse_second(self) -> None:
        """Raises NotAtOnce where a user is written already."""
        if self.inserted is not None or self.pair is not None:
            raise NotAtOnce

    async def find_used_ids(self, ids: Sequence[UUID]) -> Set[UUID]:
        raise NotAtOnce

    async def purge(self, purged: Sequence[User]) -> None:
        raise NotAtOnce

    async def erase(self, before: User, after: User) -> None:
        raise NotAtOnce

    async def write(self) -> None:
        """Writes what was collected: all of it, or nothing. Raises NotAtOnce, and what Session.execute raises."""
        parts, values = self.collect()
        if not parts:
            return
        try:
            written = await self.run(with_parts(tuple(parts)), values)
        except asyncpg.PostgresError as error:
            if is_unique_violation(error):
                # Another transaction has claimed an identifier or stored a response since the statement began.
                raise NotAtOnce from error
            raise
        if not written.scalar_one():
            raise NotAtOnce

    def collect(self) -> tuple[list[str], dict[str, Any]]:
        """The parts of the statement, and their parameters; no part where nothing is to be written."""
        values: dict[str, Any] = {}
        gate: list[str] = []
        conditions: list[str] = []
        further: Sequence[str] = ()
        if self.companion is not None:
            gate.append(f"allowed AS MATERIALIZED (SELECT {self.companion.condition} AS it)")
            conditions.append(IS_ALLOWED)
            further = self.companion.parts
            values |= self.companion.values
        if self.logged is None:
            return ([*gate, go(conditions), *further] if further else []), values
        freed: Sequence[Identifier] = ()
        removed: Set[int] = frozenset()
        if self.inserted is not None:
            parts = [INSERTED]
            arrays = self.inserted.insert_arrays()
            claimed: Sequence[Identifier] = self.inserted.identifiers[0]
            added: Set[int] = self.inserted.postings[0][0]
        else:
            assert self.pair is not None
            before, after = self.pair
            parts = [UPDATED]
            gate.append(LOCKED.format(IS_ALLOWED if conditions else "true"))
            conditions.append(IS_LOCKED)
            arrays = column_arrays([after], tuple(COLUMN_TYPES), self.cipher, self.index)
            claimed = [key for move in self.moves for key in move.asked]
            freed = [key for move in self.moves for key in move.given_up]
            removed, added = compare_terms(before, after, self.index)
        values |= {name: column[0] for name, column in arrays.items()}
        values |= self.logged
        if claimed:
            conditions.append(ALL_FREE)
            parts.append(CLAIMED)
            values |= {"claimed_kinds": [key[0] for key in claimed], "claimed_indexes": [key[1:] for key in claimed]}
        if freed:
            parts.append(FREED)
            values |= {"freed_kinds": [key[0] for key in freed], "freed_indexes": [key[1:] for key in freed]}
        if added:
            parts.append(ADDED_TERMS)
            values["added_terms"] = list(added)
        if removed:
            parts.append(REMOVED_TERMS)
            values["removed_terms"] = list(removed)
        return [*gate, go(conditions), *parts, LOGGED, QUEUED, PENDING, *further], values


async def fetch_rows(database: Database, ids: Sequence[UUID]) -> dict[UUID, Row]:
    """The rows of `USER_COLUMNS` of users, deleted ones too. Raises DatabaseUnavailable, Contended."""
    async with database.session() as session:
        return {row[0]: row for row in await session.execute(ALL_BY_IDS, {"keys": ids})}


Item = TypeVar("Item")


def single(items: Sequence[Item]) -> Item | None:
    """The only item, None where there is none. Raises NotAtOnce for several."""
    if len(items) > 1:
        raise NotAtOnce
    return items[0] if items else None


def go(conditions: Sequence[str]) -> str:
    """The part that has a row if all conditions are true."""
    return f"go AS MATERIALIZED (SELECT WHERE {' AND '.join(conditions) or 'true'})"


@lru_cache(maxsize=64)
def with_parts(parts: tuple[str, ...]) -> Statement:
    """Returns one row: the number of rows of `go`, 0 where nothing was written."""
    return text(f"WITH {', '.join(parts)} SELECT count(*) FROM go")  # noqa: S608
