"""All SQL that writes users, and the reads that writes need. A statement takes a set; one user is a set of one."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, BlindIndex, encode_text
from user_service.encryption.cipher import Cipher
from user_service.errors import IdTaken, ServiceError
from user_service.postgres.distribution import is_unique_violation
from user_service.postgres.session import Rows, Session
from user_service.postgres.statements import Statement, text
from user_service.users.binary_copy import COPIED_IDENTIFIER_COLUMNS, COPIED_TERM_COLUMNS, COPIED_USER_COLUMNS
from user_service.users.bulk_insert import COPY_THRESHOLD, InsertRows
from user_service.users.change_log import CHANGE_COLUMNS, Change, Origin
from user_service.users.column_arrays import AS_JSON, COLUMN_TYPES, INITIAL_VALUES, INSERTED, column_arrays
from user_service.users.encrypted_columns import SELECT_LIST, decode_row, seal_personal
from user_service.users.identifiers import IdentifierTable, Move, compare_terms, identifiers, search_terms, stored_terms
from user_service.users.model import User
from user_service.values.ids import new_id

# Events of one user stay in order because a user is always in one partition of the outbox.
OUTBOX_PARTITIONS: Final = 16
OUTBOX_PARTITION: Final = f"get_byte(uuid_send({{}}), 15) % {OUTBOX_PARTITIONS}"


def parameter_rows(names: Collection[str]) -> str:
    """The parameters of these columns as rows `v`."""
    arrays = ", ".join(f"CAST(:{name} AS {COLUMN_TYPES[name]}[])" for name in names)
    return f"unnest({arrays}) AS v({', '.join(names)})"


def column_values(expressions: Mapping[str, str]) -> str:
    """The value of each column: the given expression, else the column of rows `v`."""
    return ", ".join(expressions.get(name) or f"v.{name}" for name in COLUMN_TYPES)


# Sorted by id, as the rows of a COPY are: imports can keep ids, and two of the same ids wait for each other.
INSERT: Final = text(
    f"INSERT INTO users ({', '.join(COLUMN_TYPES)}) SELECT {column_values({**INITIAL_VALUES, **AS_JSON})}"  # noqa: S608
    f" FROM {parameter_rows(INSERTED)} ORDER BY v.id"
    " ON CONFLICT DO NOTHING RETURNING id"
)
UPDATE: Final = text(
    f"UPDATE users SET ({', '.join(COLUMN_TYPES)}) = ROW({column_values(AS_JSON)})"  # noqa: S608
    f" FROM {parameter_rows(COLUMN_TYPES)} WHERE users.id = v.id"
)
# Each user's id is sent once; terms refer to its place in the array.
NEW_TERMS: Final = (
    "INSERT INTO user_terms (term, user_id) SELECT v.term, (CAST(:ids AS uuid[]))[v.place]"
    " FROM unnest(CAST(:terms AS bigint[]), CAST(:places AS integer[])) AS v(term, place)"
    " ORDER BY v.term, v.place"
)
# New users have no terms; without ON CONFLICT, PostgreSQL takes two fifths less time.
INSERT_FIRST_TERMS: Final = text(NEW_TERMS)
INSERT_TERMS: Final = text(f"{NEW_TERMS} ON CONFLICT DO NOTHING")
DELETE_TERMS: Final = text(
    "DELETE FROM user_terms USING unnest(CAST(:terms AS bigint[]), CAST(:places AS integer[])) AS v(term, place)"
    " WHERE user_terms.term = v.term AND user_terms.user_id = (CAST(:ids AS uuid[]))[v.place]"
)
# A row of the feed's queue with so many changes has less than 2 KB, so it is neither compressed nor stored elsewhere.
QUEUED_CHANGES: Final = 95


def insert_changes(kind: str, place: str = "") -> Statement:
    """Writes changes to the change log, the feed's queue and the outbox. `kind` are the expressions of their types,
    statuses and changed fields; with `place`, rows `v` have that column too, the places of their kinds in arrays.

    A user's changes are in the order of the numbers of the outbox and of the feed's queue, because each is written
    while the user's row is locked. COPY would take more time, in the worker and in PostgreSQL (docs/measurements.md).
    """
    ids, versions = "CAST(:ids AS uuid[])", "CAST(:versions AS integer[])"
    places, column = (f", CAST(:{place}s AS integer[])", f", {place}") if place else ("", "")
    queued = f"[start:start + {QUEUED_CHANGES - 1}]"
    return text(
        f"WITH logged AS (INSERT INTO user_changes ({CHANGE_COLUMNS})"  # noqa: S608
        f" SELECT v.user_id, v.version, v.event_id, {kind}, :at, :actor, :request_id, :traceparent, :reason"
        f" FROM unnest({ids}, {versions}, CAST(:event_ids AS uuid[]){places})"
        f" AS v(user_id, version, event_id{column})),"
        f" queued AS (INSERT INTO feed_queue (changed_at, user_ids, versions)"
        f" SELECT :at, ({ids}){queued}, ({versions}){queued}"
        f" FROM generate_series(1, cardinality({ids}), {QUEUED_CHANGES}) AS start)"
        " INSERT INTO outbox (partition, user_id, version, changed_at)"
        f" SELECT {OUTBOX_PARTITION.format('v.user_id')}, v.user_id, v.version, :at"
        f" FROM unnest({ids}, {versions}) AS v(user_id, version)"
    )


INSERT_CHANGES: Final = insert_changes(
    "(CAST(:types AS text[]))[v.kind], (CAST(:statuses AS text[]))[v.kind],"
    " string_to_array((CAST(:changed AS text[]))[v.kind], ',')",
    "kind",
)
# For a set of changes of one kind. What they have in common is the same for all rows.
INSERT_ALIKE: Final = insert_changes("CAST(:type AS text), CAST(:status AS text), CAST(:changed AS text[])")


def select_by(condition: str, *, lock: bool = False) -> Statement:
    ending = " ORDER BY id FOR UPDATE" if lock else ""
    return text(f"SELECT {SELECT_LIST} FROM users WHERE {condition}{ending}")  # noqa: S608


ERASE: Final = text(
    "UPDATE users SET external_id = NULL, phone_index = NULL, personal = :personal, email_verified = false,"
    " locale = NULL, timezone = NULL, status = :status, prior_status = NULL, metadata = '{}', version = :version,"
    " updated_at = :updated_at, last_login_at = NULL, deleted_at = :deleted_at, erased_at = :updated_at WHERE id = :id"
)
DELETE: Final = text("DELETE FROM users WHERE id = ANY(CAST(:ids AS uuid[]))")
LOCK_AGAINST_ERASURE: Final = text(
    "SELECT id FROM users WHERE id = ANY(CAST(:ids AS uuid[])) AND erased_at IS NULL ORDER BY id FOR KEY SHARE"
)


ALL_BY_IDS: Final = select_by("id = ANY(CAST(:keys AS uuid[]))")
BY_IDS: Final = select_by("id = ANY(CAST(:keys AS uuid[])) AND deleted_at IS NULL")
LOCK_BY_IDS: Final = select_by("id = ANY(CAST(:keys AS uuid[]))", lock=True)
# The identifiers are read first, and the users by their ids, which is what a database of several servers can do.
BY_IDENTIFIERS: Final = text(
    "WITH found AS MATERIALIZED (SELECT user_id, index FROM identifiers"  # noqa: S608
    f" WHERE kind = :kind AND index = ANY(CAST(:keys AS bytea[]))) SELECT {SELECT_LIST}, index"
    " FROM users JOIN found ON id = user_id"
)

# A purged user leaves its changes.
USED_IDS: Final = text(
    "SELECT id FROM users WHERE id = ANY(CAST(:ids AS uuid[]))"
    " UNION SELECT user_id FROM user_changes WHERE user_id = ANY(CAST(:ids AS uuid[]))"
)


class UserRepository:
    """Users in PostgreSQL, in the transaction of `session`."""

    def __init__(self, session: Session, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.cipher = cipher
        self.index = index
        self.identifiers = IdentifierTable(session, index)

    async def lock(self, ids: Iterable[UUID]) -> dict[UUID, User]:
        """The users of these ids, deleted ones too, locked in the order of their ids."""
        groups = await self.session.lockable(sorted(set(ids)))
        return {user.id: user for group in groups for user in await self.select(LOCK_BY_IDS, group)}

    async def read(self, ids: Collection[UUID]) -> dict[UUID, User]:
        """The users of these ids, deleted ones too."""
        return {user.id: user for user in await self.select(ALL_BY_IDS, list(ids))}

    async def find_by_ids(self, ids: Collection[UUID]) -> dict[UUID, User]:
        """The living users of these ids."""
        return {user.id: user for user in await self.select(BY_IDS, list(ids))}

    async def find_by_external_ids(self, external_ids: Collection[str]) -> dict[str, User]:
        """The living users of these external ids."""
        indexes = {encode_text(external_id): external_id for external_id in external_ids}
        return {indexes[key]: user for key, user in (await self.find_by_indexes(EXTERNAL_ID, indexes)).items()}

    async def find_by_emails(self, emails: Collection[str]) -> dict[str, User]:
        """The living users of these normalised addresses, which may be aliases, by the given address."""
        by_index = await self.find_by_indexes(EMAIL, {self.index.email(email) for email in emails})
        return {email: by_index[key] for email in emails if (key := self.index.email(email)) in by_index}

    async def find_by_indexes(self, kind: int, indexes: Collection[bytes]) -> dict[bytes, User]:
        """The living users of identifiers of one kind, by blind index."""
        if not indexes:
            return {}
        rows = await self.run(BY_IDENTIFIERS, {"kind": kind, "keys": list(indexes)})
        return {row[-1]: decode_row(row[:-1], self.cipher) for row in rows}

    async def select(self, statement: Statement, keys: Sequence[Any]) -> list[User]:
        if not keys:
            return []
        return [decode_row(row, self.cipher) for row in await self.run(statement, {"keys": keys})]

    async def run(self, statement: Statement, values: Mapping[str, object]) -> Rows:
        """The rows of a statement that reads."""
        return await self.session.execute(statement, values)

    async def insert(self, new: Sequence[User], rows: InsertRows | None = None) -> dict[UUID, ServiceError]:
        """Inserts users with their identifiers and terms. Returns the errors of those that were not inserted.

        `rows` are those of these users, where they were prepared.
        """
        if not new:
            return {}
        rows = self.current_rows(new, rows)
        if len(new) >= COPY_THRESHOLD and await self.copy_unless_taken(rows):
            return {}
        refused = await self.identifiers.claim(rows.users, rows.identifiers)
        if len(refused) < len(new):
            rows = rows.without(refused) if refused else rows
            inserted = set((await self.session.execute(INSERT, rows.insert_arrays())).scalars())
            await self.change_terms(INSERT_FIRST_TERMS, [entry for entry in rows.postings if entry[1] in inserted])
            late = [user for user in rows.users if user.id not in inserted]
            await self.identifiers.free_all(late)
            refused |= {user.id: IdTaken() for user in late}
        return refused

    def current_rows(self, new: Sequence[User], rows: InsertRows | None) -> InsertRows:
        """The rows of new users; `rows`, if they were prepared with the keys that are in force."""
        if rows is None or not rows.is_current(self.cipher, self.index):
            rows = InsertRows(self.cipher, self.index)
            rows.add(new, [identifiers(user, self.index) for user in new])
        return rows

    async def copy_unless_taken(self, rows: InsertRows) -> bool:
        """Inserts users with their identifiers and terms by COPY: all, or none when an identifier or id is taken.

        Returns whether it did.
        """
        claims, users, terms = rows.copy_data()
        # Not released: the end of the transaction does that without a round trip.
        before = await self.session.savepoint()
        try:
            await copy(self.session, "identifiers", COPIED_IDENTIFIER_COLUMNS, claims)
            await copy(self.session, "users", COPIED_USER_COLUMNS, users)
            await copy(self.session, "user_terms", COPIED_TERM_COLUMNS, terms)
        except asyncpg.PostgresError as error:
            if not is_unique_violation(error):
                raise
            await before.rollback()
            return False
        return True

    async def update(self, pairs: Sequence[tuple[User, User]], moves: Sequence[Move]) -> dict[UUID, ServiceError]:
        """Writes (before, after) pairs of locked users; `moves` are of those that `is_moved` names.

        Returns the errors of those that ask for what others have.
        """
        refused = await self.identifiers.move(moves)
        kept = [pair for pair in pairs if pair[1].id not in refused]
        if kept:
            rows = [after for _, after in kept]
            await self.session.execute(UPDATE, column_arrays(rows, tuple(COLUMN_TYPES), self.cipher, self.index))
            await self.update_terms(kept)
        return refused

    async def find_used_ids(self, ids: Sequence[UUID]) -> Set[UUID]:
        """Those ids that a user has, deleted ones too, or had before it was purged."""
        return set((await self.session.execute(USED_IDS, {"ids": ids})).scalars())

    async def purge(self, purged: Sequence[User]) -> None:
        """Removes locked users with their identifiers and terms. The change log stays."""
        await self.identifiers.free_all(purged)
        await self.session.execute(DELETE, {"ids": [user.id for user in purged]})
        await self.change_terms(DELETE_TERMS, [(stored_terms(user, self.index), user.id) for user in purged])

    async def erase(self, before: User, after: User) -> None:
        """Turns a locked user into a tombstone, and removes the identifiers and terms. The change log stays."""
        await self.identifiers.free_all([before])
        values = {name: getattr(after, name) for name in ("id", "status", "version", "updated_at", "deleted_at")}
        (personal,) = seal_personal([after], self.cipher)
        await self.session.execute(ERASE, values | {"personal": personal})
        await self.change_terms(DELETE_TERMS, [(stored_terms(before, self.index), before.id)])

    async def lock_against_erasure(self, ids: Sequence[UUID]) -> bool:
        """Whether all of these exist and are not erased; none is erased or purged until the transaction ends."""
        locked = 0
        for group in await self.session.lockable(sorted(set(ids))):
            locked += len(await self.session.execute(LOCK_AGAINST_ERASURE, {"ids": group}))
        return locked == len(set(ids))

    async def append_changes(self, changes: Sequence[Change], origin: Origin, at: datetime) -> None:
        """Writes changes of new or locked users, one of each, to the change log, the outbox and the feed's queue."""
        if not changes:
            return
        # What changes of many users have in common is sent once.
        kinds: dict[tuple[str, str, tuple[str, ...]], int] = {}
        places = [kinds.setdefault((kind, user.status, changed), len(kinds) + 1) for user, kind, changed in changes]
        types, statuses, changed_names = zip(*kinds, strict=True)
        values: dict[str, object] = {
            "ids": [user.id for user, _, _ in changes],
            "versions": [user.version for user, _, _ in changes],
            "event_ids": [new_id() for _ in changes],
            "at": at,
            **origin.columns,
        }
        if len(kinds) == 1:
            values |= {"type": types[0], "status": statuses[0], "changed": changed_names[0]}
            await self.session.execute(INSERT_ALIKE, values)
            return
        names = [",".join(fields) for fields in changed_names]
        values |= {"kinds": places, "types": types, "statuses": statuses, "changed": names}
        await self.session.execute(INSERT_CHANGES, values)

    def search_terms(self, user: User) -> set[int]:
        return search_terms(user, self.index)

    async def update_terms(self, pairs: Iterable[tuple[User, User]]) -> None:
        removed, added = [], []
        for before, after in pairs:
            old, new = compare_terms(before, after, self.index)
            removed.append((old, after.id))
            added.append((new, after.id))
        await self.change_terms(DELETE_TERMS, removed)
        await self.change_terms(INSERT_TERMS, added)

    async def write_terms(self, users: Collection[User]) -> None:
        """Writes the terms of locked users again, and removes those of an earlier version or another setting."""
        terms = {user.id: self.search_terms(user) for user in users}
        await self.change_terms(
            DELETE_TERMS, [(stored_terms(user, self.index) - terms[user.id], user.id) for user in users]
        )
        await self.change_terms(INSERT_TERMS, [(terms[user.id], user.id) for user in users])

    async def change_terms(self, statement: Statement, postings: Iterable[tuple[Collection[int], UUID]]) -> None:
        terms: list[int] = []
        places: list[int] = []
        ids: list[UUID] = []
        for user_terms, user_id in postings:
            if user_terms:
                ids.append(user_id)
                terms += user_terms
                places += [len(ids)] * len(user_terms)
        if terms:
            await self.session.execute(statement, {"terms": terms, "places": places, "ids": ids})


async def copy(session: Session, table: str, columns: Sequence[str], data: bytes) -> None:
    """Writes rows in the binary format. Raises UniqueViolationError and other errors of asyncpg."""

    async def source() -> AsyncIterator[bytes]:
        yield data

    await session.connection.copy_to_table(table, columns=columns, source=source(), format="binary")
