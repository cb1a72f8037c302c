"""Changes of users as one statement, which is a transaction by itself: one round trip instead of four or more.

1. An operation runs on a repository that reads without locks, and collects what is to be written.
2. `write` sends all of it as one statement: users, identifiers, terms, change log, outbox, feed, stored response.
3. The statement locks the users, and writes nothing unless each still has the version that was read and each
   identifier that is asked for is free.
4. Where it writes nothing, and for what it can't do, NotAtOnce is raised. The caller runs the operation again in a
   transaction, which does the same in steps and finds out what is wrong.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from user_service.errors import ServiceError
from user_service.postgres.distribution import is_unique_violation
from user_service.postgres.statements import Statement, text
from user_service.users.bulk_insert import InsertRows
from user_service.users.change_log import Change, Origin
from user_service.users.column_arrays import AS_JSON, COLUMN_TYPES, INITIAL_VALUES, INSERTED, column_arrays
from user_service.users.identifiers import Move
from user_service.users.model import User
from user_service.users.repository import (
    ALL_BY_IDS,
    UserRepository,
    change_values,
    column_values,
    log_changes,
    parameter_rows,
)

# An identifier or a term, and the place of its user in `ids`, from 1.
Place = tuple[Any, int]

LOCKED: Final = (
    "locked AS MATERIALIZED (SELECT u.id FROM users u"
    " JOIN unnest(CAST(:ids AS uuid[]), CAST(:versions AS integer[])) AS v(id, version)"
    " ON u.id = v.id AND u.version = v.version - 1 WHERE {} ORDER BY u.id FOR UPDATE OF u)"
)
IS_ALLOWED: Final = "(SELECT it FROM allowed)"
ALL_LOCKED: Final = "(SELECT count(*) FROM locked) = cardinality(CAST(:ids AS uuid[]))"
CLAIMED_ROWS: Final = (
    "unnest(CAST(:claimed_kinds AS smallint[]), CAST(:claimed_indexes AS bytea[]), CAST(:claimed_places AS integer[]))"
    " AS v(kind, index, place)"
)
ALL_FREE: Final = f"NOT EXISTS (SELECT FROM identifiers i JOIN {CLAIMED_ROWS} ON i.kind = v.kind AND i.index = v.index)"
USER_ID: Final = "(CAST(:ids AS uuid[]))[v.place]"
INSERTED_USERS: Final = (
    f"inserted AS (INSERT INTO users ({', '.join(COLUMN_TYPES)})"  # noqa: S608
    f" SELECT {column_values({**INITIAL_VALUES, **AS_JSON})} FROM go, {parameter_rows(INSERTED)})"
)
UPDATED_USERS: Final = (
    f"updated AS (UPDATE users SET ({', '.join(COLUMN_TYPES)}) = ROW({column_values(AS_JSON)})"  # noqa: S608
    f" FROM go, {parameter_rows(COLUMN_TYPES)} WHERE users.id = v.id)"
)
CLAIMED: Final = (
    f"claimed AS (INSERT INTO identifiers (kind, index, user_id) SELECT v.kind, v.index, {USER_ID}"  # noqa: S608
    f" FROM go, {CLAIMED_ROWS} ORDER BY v.kind, length(v.index), v.index)"
)
FREED: Final = (
    "freed AS (DELETE FROM identifiers AS i USING go,"  # noqa: S608
    " unnest(CAST(:freed_kinds AS smallint[]), CAST(:freed_indexes AS bytea[]), CAST(:freed_places AS integer[]))"
    f" AS v(kind, index, place) WHERE i.kind = v.kind AND i.index = v.index AND i.user_id = {USER_ID})"
)
ADDED_TERMS: Final = (
    f"added_terms AS (INSERT INTO user_terms (term, user_id) SELECT v.term, {USER_ID}"  # noqa: S608
    " FROM go, unnest(CAST(:added_terms AS bigint[]), CAST(:added_places AS integer[])) AS v(term, place)"
    " ORDER BY v.term ON CONFLICT DO NOTHING)"
)
REMOVED_TERMS: Final = (
    "removed_terms AS (DELETE FROM user_terms AS t USING go,"  # noqa: S608
    " unnest(CAST(:removed_terms AS bigint[]), CAST(:removed_places AS integer[])) AS v(term, place)"
    f" WHERE t.term = v.term AND t.user_id = {USER_ID})"
)
LOGGED: Final = ", ".join(log_changes("go"))


class NotAtOnce(Exception):
    """Nothing was written: run the operation in a transaction."""


class Companion(NamedTuple):
    """What is written with the users: parts of a WITH clause that read from part `go`, and their parameters.

    Nothing is locked or written unless `condition` is true.
    """

    condition: str
    parts: Sequence[str]
    values: Mapping[str, Any]


class StatementRepository(UserRepository):
    """Reads users without locks, and collects the changes of one operation. `write` writes them."""

    inserted: InsertRows | None = None
    pairs: Sequence[tuple[User, User]] = ()
    moves: Sequence[Move] = ()
    changes: dict[str, Any] | None = None
    companion: Companion | None = None

    async def lock(self, ids: Iterable[UUID]) -> dict[UUID, User]:
        """The users of these ids, deleted ones too; `write` locks those that were changed."""
        return {user.id: user for user in await self.select(ALL_BY_IDS, list(ids))}

    async def insert(self, new: Sequence[User], rows: InsertRows | None = None) -> dict[UUID, ServiceError]:
        self.inserted = self.current_rows(new, rows)
        return {}

    async def update(self, pairs: Sequence[tuple[User, User]], moves: Sequence[Move]) -> dict[UUID, ServiceError]:
        self.pairs, self.moves = pairs, moves
        return {}

    async def append_changes(self, changes: Sequence[Change], origin: Origin, at: datetime) -> None:
        if changes:
            self.changes = change_values(changes, origin, at)

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
            written = await self.session.execute(statement(tuple(parts)), values)
        except asyncpg.PostgresError as error:
            if is_unique_violation(error):
                # Another transaction has claimed an identifier or stored a response since the statement began.
                raise NotAtOnce from error
            raise
        if not written.scalar_one():
            raise NotAtOnce

    def collect(self) -> tuple[list[str], dict[str, Any]]:
        """The parts of the statement, the gate first, and their parameters; no part where nothing is to be written."""
        rows, pairs = self.inserted, self.pairs
        if rows is not None and pairs:
            raise NotAtOnce
        values: dict[str, Any] = {}
        gate: list[str] = []
        conditions: list[str] = []
        further: Sequence[str] = ()
        if self.companion is not None:
            gate.append(f"allowed AS MATERIALIZED (SELECT {self.companion.condition} AS it)")
            conditions.append(IS_ALLOWED)
            further = self.companion.parts
            values |= self.companion.values
        if self.changes is None:
            return ([*gate, go(conditions), *further] if further else []), values
        values |= self.changes
        places = {user_id: place for place, user_id in enumerate(self.changes["ids"], 1)}
        freed: list[Place] = []
        removed: list[Place] = []
        if rows is not None:
            parts = [INSERTED_USERS]
            values |= rows.insert_arrays()
            claimed = [
                (key, places[user.id]) for user, keys in zip(rows.users, rows.identifiers, strict=True) for key in keys
            ]
            added = [(term, places[user_id]) for terms, user_id in rows.postings for term in terms]
        else:
            parts = [UPDATED_USERS]
            values |= column_arrays([after for _, after in pairs], tuple(COLUMN_TYPES), self.cipher, self.index)
            claimed = [(key, places[move.user.id]) for move in self.moves for key in move.asked]
            freed = [(key, places[move.user.id]) for move in self.moves for key in move.given_up]
            added = []
            for before, after in pairs:
                old, new = self.search_terms(before), self.search_terms(after)
                removed += [(term, places[after.id]) for term in old - new]
                added += [(term, places[after.id]) for term in new - old]
        if pairs:
            gate.append(LOCKED.format(IS_ALLOWED if conditions else "true"))
            conditions.append(ALL_LOCKED)
        if claimed:
            conditions.append(ALL_FREE)
            parts.append(CLAIMED)
            values |= identifier_arrays("claimed", claimed)
        if freed:
            parts.append(FREED)
            values |= identifier_arrays("freed", freed)
        for name, part, found in (("added", ADDED_TERMS, added), ("removed", REMOVED_TERMS, removed)):
            if found:
                parts.append(part)
                values |= {
                    f"{name}_terms": [term for term, _ in found],
                    f"{name}_places": [place for _, place in found],
                }
        return [*gate, go(conditions), *parts, LOGGED, *further], values


def go(conditions: Sequence[str]) -> str:
    """The part that has a row if all conditions are true."""
    return f"go AS MATERIALIZED (SELECT WHERE {' AND '.join(conditions) or 'true'})"


def identifier_arrays(name: str, found: Sequence[Place]) -> dict[str, Sequence[Any]]:
    return {
        f"{name}_kinds": [key[0] for key, _ in found],
        f"{name}_indexes": [key[1:] for key, _ in found],
        f"{name}_places": [place for _, place in found],
    }


@lru_cache(maxsize=64)
def statement(parts: tuple[str, ...]) -> Statement:
    """Returns one row: the number of rows of `go`, 0 where nothing was written."""
    return text(f"WITH {', '.join(parts)} SELECT count(*) FROM go")  # noqa: S608
