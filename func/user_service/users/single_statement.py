"""The change of one user without a transaction of its own: one round trip instead of four or more.

1. An operation runs on a repository that reads without locks, and collects what is to be written.
2. `write` sends all of it: user, identifiers, terms, change log, outbox, feed, stored response. One statement writes it
   with what others have collected; see group_commit.py.
3. Where it is not written, and for what it can't do, NotAtOnce is raised. The caller runs the operation again in a
   transaction, which does the same in steps and finds out what is wrong.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import NamedTuple, TypeVar
from uuid import UUID

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.errors import ServiceError
from user_service.idempotency.requests import KeyedResponse
from user_service.postgres.database import Database
from user_service.postgres.session import Row, Rows, Session
from user_service.postgres.statements import Statement
from user_service.users.bulk_insert import InsertRows
from user_service.users.change_log import Change, Origin
from user_service.users.encrypted_columns import decode_row
from user_service.users.group_commit import Write
from user_service.users.identifiers import Identifier, Move, compare_terms, identifiers, search_terms
from user_service.users.model import User
from user_service.users.repository import ALL_BY_IDS, UserRepository

# Gives the row of `USER_COLUMNS` of a user, which may be read with those of concurrent requests.
LoadRow = Callable[[UUID], Awaitable[Row | None]]


# Whether a write was written, with those of concurrent requests; None where it was left out.
CommitWrite = Callable[[Write], Awaitable[bool | None]]


class NotAtOnce(Exception):
    """Nothing was written: run the operation in a transaction."""


class Collected(NamedTuple):
    """The identifiers that a change claims and frees, and the terms that it adds and removes."""

    claimed: Sequence[Identifier]
    freed: Sequence[Identifier]
    added: Collection[int]
    removed: Collection[int]


class StatementRepository(UserRepository):
    """Reads users without locks, and collects the change of one. `write` writes it.

    Each statement runs on a connection of its own, so that no connection is held while the row of a user is awaited.
    Its methods raise NotAtOnce for what it can't do.
    """

    collected: Collected | None = None
    planned: Write | None = None
    # The response that is stored with the change.
    keyed: KeyedResponse | None = None

    def __init__(
        self, database: Database, cipher: Cipher, index: BlindIndex, *, load: LoadRow, commit: CommitWrite
    ) -> None:
        self.database = database
        self.cipher = cipher
        self.index = index
        self.load = load
        self.commit = commit

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
        user = single(new)
        if user is not None:
            self.collected = Collected(identifiers(user, self.index), (), search_terms(user, self.index), ())
        return {}

    async def update(self, pairs: Sequence[tuple[User, User]], moves: Sequence[Move]) -> dict[UUID, ServiceError]:
        self.refuse_second()
        pair = single(pairs)
        if pair is not None:
            removed, added = compare_terms(*pair, self.index)
            claimed = [key for move in moves for key in move.asked]
            freed = [key for move in moves for key in move.given_up]
            self.collected = Collected(claimed, freed, added, removed)
        return {}

    async def append_changes(self, changes: Sequence[Change], origin: Origin, at: datetime) -> None:
        change = single(changes)
        if change is None:
            return
        if self.planned is not None or self.collected is None:
            raise NotAtOnce
        self.planned = Write(change, origin, at, self.index, *self.collected)

    def refuse_second(self) -> None:
        """Raises NotAtOnce where a user is written already."""
        if self.collected is not None:
            raise NotAtOnce

    async def find_used_ids(self, ids: Sequence[UUID]) -> Set[UUID]:
        raise NotAtOnce

    async def purge(self, purged: Sequence[User]) -> None:
        raise NotAtOnce

    async def erase(self, before: User, after: User) -> None:
        raise NotAtOnce

    async def write(self) -> None:
        """Writes what was collected: all of it, or nothing. Raises NotAtOnce, DatabaseUnavailable and Contended."""
        if self.planned is None:
            if self.keyed is not None:
                raise NotAtOnce
            return
        self.planned.keyed = self.keyed
        if not await self.commit(self.planned):
            raise NotAtOnce


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
