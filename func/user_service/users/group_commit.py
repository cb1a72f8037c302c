"""Group commit of changes of single users: those that wait at the same time are written by one statement.

1. The statement is a transaction by itself. It writes users, identifiers, terms, change log, outbox, feed and stored
   responses, as arrays with an item for each write.
2. A changed user must be unlocked and still have the version that was read, each identifier that is asked for must be
   free, and an Idempotency-Key must be new. A write that finds it otherwise is left out, and the others are written.
3. Two writes of a group never ask for the same user, identifier or key: the later one is left out.
4. Where the statement fails for what one write may have caused, nothing is written, and all are left out.
5. What is left out is written alone, in a transaction that waits for locks and finds out what is wrong.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import asyncpg

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.idempotency.requests import CHECK_KEYS, STORE_RESPONSES, KeyedResponse
from user_service.postgres.database import Database
from user_service.postgres.statements import Statement, text
from user_service.users.change_log import CHANGE_COLUMNS, Change, Origin
from user_service.users.column_arrays import COLUMN_TYPES, column_arrays
from user_service.users.identifiers import Identifier
from user_service.users.repository import OUTBOX_PARTITION
from user_service.values.ids import new_id

MAX_WRITES: Final = 50
# How long a group waits for a transaction that has claimed one of its identifiers and is still open.
LOCK_TIMEOUT: Final = "100ms"
# What one write of a group may cause: a constraint, a value or a size that PostgreSQL refuses, a lock that is not free
# in time. Nothing was written.
CAUSED_BY_ONE: Final = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.TransactionRollbackError,
)

ROW_TYPES: Final = COLUMN_TYPES | {
    "event_id": "uuid",
    "type": "text",
    "changed": "text",
    "at": "timestamptz",
    "actor": "text",
    "request_id": "text",
    "traceparent": "text",
    "reason": "text",
}
# Rows `writes`. A group of one is sent as plain values, which costs asyncpg and PostgreSQL less than arrays of one do.
ARRAYS: Final = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in ROW_TYPES.items())
ROWS: Final = (
    f"writes AS MATERIALIZED (SELECT * FROM unnest({ARRAYS}) WITH ORDINALITY AS v({', '.join(ROW_TYPES)}, place))"  # noqa: S608
)
PLAIN_VALUES: Final = ", ".join(f"CAST(:{name} AS {kind}) AS {name}" for name, kind in ROW_TYPES.items())
ONE_ROW: Final = f"writes AS MATERIALIZED (SELECT {PLAIN_VALUES}, 1 AS place)"
VALUES: Final = ", ".join(
    ({name: f"go.{name}" for name in COLUMN_TYPES} | {"metadata": "CAST(go.metadata AS jsonb)"}).values()
)
CLAIMED_ROWS: Final = (
    "unnest(CAST(:claimed_kinds AS smallint[]), CAST(:claimed_indexes AS bytea[]), CAST(:claimed_places AS integer[]))"
    " AS v(kind, index, place)"
)
FREED_ROWS: Final = (
    "unnest(CAST(:freed_kinds AS smallint[]), CAST(:freed_indexes AS bytea[]), CAST(:freed_places AS integer[]))"
    " AS v(kind, index, place)"
)
ADDED_ROWS: Final = "unnest(CAST(:added_terms AS bigint[]), CAST(:added_places AS integer[])) AS v(term, place)"
REMOVED_ROWS: Final = "unnest(CAST(:removed_terms AS bigint[]), CAST(:removed_places AS integer[])) AS v(term, place)"

# Each part finds rows by a whole key: laterally with a limit, by an array of keys, or by an array of row addresses.
# A plan that was made for empty tables may stay in use after they have filled, and a join might read all of a table.
LOCKED: Final = (
    "locked AS MATERIALIZED (SELECT u.id FROM writes CROSS JOIN LATERAL"
    " (SELECT id FROM users WHERE id = writes.id AND version = writes.version - 1 LIMIT 1 FOR UPDATE SKIP LOCKED) u)"
)
TAKEN: Final = (
    f"taken AS MATERIALIZED (SELECT v.place FROM {CLAIMED_ROWS} CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT FROM identifiers WHERE kind = v.kind AND index = v.index LIMIT 1) i)"
)
IS_LOCKED: Final = "(writes.version = 1 OR writes.id IN (SELECT id FROM locked))"
IS_FREE: Final = "writes.place NOT IN (SELECT place FROM taken)"
# For this statement alone, which is a transaction; in force before anything is claimed.
WAITS_BRIEFLY: Final = f"(SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', true)) IS NOT NULL"
IS_FIRST: Final = "writes.place NOT IN (SELECT place FROM repeated)"
INSERTED: Final = (
    f"inserted AS (INSERT INTO users ({', '.join(COLUMN_TYPES)})"  # noqa: S608
    f" SELECT {VALUES} FROM go WHERE go.version = 1)"
)
UPDATED: Final = (
    f"updated AS (UPDATE users SET ({', '.join(COLUMN_TYPES)}) ="  # noqa: S608
    f" (SELECT {VALUES} FROM go WHERE go.id = users.id) WHERE users.id = ANY(ARRAY(SELECT id FROM go)))"
)
# In the order in which all transactions claim identifiers.
CLAIMED: Final = (
    "claimed AS (INSERT INTO identifiers (kind, index, user_id)"  # noqa: S608
    f" SELECT v.kind, v.index, go.id FROM go JOIN {CLAIMED_ROWS} ON v.place = go.place"
    " ORDER BY v.kind, length(v.index), v.index)"
)
FREED: Final = (
    "freed AS (DELETE FROM identifiers WHERE ctid = ANY(ARRAY("  # noqa: S608
    f"SELECT i.ctid FROM go JOIN {FREED_ROWS} ON v.place = go.place CROSS JOIN LATERAL"
    " (SELECT ctid FROM identifiers WHERE kind = v.kind AND index = v.index AND user_id = go.id LIMIT 1) i)))"
)
ADDED_TERMS: Final = (
    f"added AS (INSERT INTO user_terms (term, user_id) SELECT v.term, go.id FROM go JOIN {ADDED_ROWS}"  # noqa: S608
    " ON v.place = go.place ORDER BY v.term ON CONFLICT DO NOTHING)"
)
REMOVED_TERMS: Final = (
    "removed AS (DELETE FROM user_terms WHERE ctid = ANY(ARRAY("  # noqa: S608
    f"SELECT t.ctid FROM go JOIN {REMOVED_ROWS} ON v.place = go.place CROSS JOIN LATERAL"
    " (SELECT ctid FROM user_terms WHERE term = v.term AND user_id = go.id LIMIT 1) t)))"
)
LOGGED: Final = (
    f"logged AS (INSERT INTO user_changes ({CHANGE_COLUMNS}) SELECT id, version, event_id, type, status,"  # noqa: S608
    " string_to_array(changed, ','), at, actor, request_id, traceparent, reason FROM go)"
)
QUEUED: Final = (
    "queued AS (INSERT INTO feed_queue (changed_at, user_ids, versions) SELECT at, ARRAY[id], ARRAY[version] FROM go)"
)
PENDING: Final = (
    "pending AS (INSERT INTO outbox (partition, user_id, version, changed_at)"  # noqa: S608
    f" SELECT {OUTBOX_PARTITION.format('id')}, id, version, at FROM go)"
)


@dataclass(slots=True, eq=False)
class Write:
    """One changed or new user, with what is written beside it. `index` has made its identifiers and terms."""

    change: Change
    origin: Origin
    at: datetime
    index: BlindIndex
    claimed: Sequence[Identifier]
    freed: Sequence[Identifier]
    added: Collection[int]
    removed: Collection[int]
    keyed: KeyedResponse | None = None

    @property
    def asked(self) -> list[object]:
        """What no other write of the same group may ask for: the user, identifiers, the Idempotency-Key."""
        return [self.change.user.id, *self.claimed, *([self.keyed.id] if self.keyed is not None else [])]


async def write_group(
    database: Database, writes: Sequence[Write], cipher: Cipher, index: BlindIndex
) -> dict[Write, bool]:
    """Writes some or none of the writes, up to MAX_WRITES; returns which. Raises DatabaseUnavailable, Contended."""
    group = separate(writes, index)
    if not group:
        return {}
    parts, values = collect(group, cipher, index)
    async with database.session() as session:
        try:
            written = await session.execute(with_parts(parts), values)
        except CAUSED_BY_ONE:
            return {}
    return {group[place - 1]: True for place in written.scalars()}


def separate(writes: Sequence[Write], index: BlindIndex) -> list[Write]:
    """The writes of which no two ask for the same, and whose identifiers were made by this index."""
    group: list[Write] = []
    seen: set[object] = set()
    for write in writes:
        asked = write.asked
        if write.index is index and seen.isdisjoint(asked):
            seen.update(asked)
            group.append(write)
    return group


def collect(group: Sequence[Write], cipher: Cipher, index: BlindIndex) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The parts of the statement that this group needs, and their parameters."""
    users = [write.change.user for write in group]
    values: dict[str, Any] = column_arrays(users, tuple(COLUMN_TYPES), cipher, index)
    values |= {
        "event_id": [new_id() for _ in group],
        "type": [write.change.type for write in group],
        "changed": [",".join(write.change.changed) for write in group],
        "at": [write.at for write in group],
        "actor": [write.origin.actor for write in group],
        "request_id": [write.origin.request_id for write in group],
        "traceparent": [write.origin.traceparent for write in group],
        "reason": [write.origin.reason for write in group],
    }
    gate: list[str] = []
    conditions: list[str] = []
    parts: list[str] = []
    places = list(enumerate(group, 1))
    # Few shapes, since each has a plan in each session: what is not always needed is there with what goes with it.
    has_changed = max(values["version"]) > 1
    if 1 in values["version"]:
        parts.append(INSERTED)
    if has_changed:
        gate.append(LOCKED)
        conditions.append(IS_LOCKED)
        parts.append(UPDATED)
    if any(write.claimed or write.freed for write in group):
        gate.append(TAKEN)
        conditions += (IS_FREE, WAITS_BRIEFLY)
        parts += (CLAIMED, FREED) if has_changed else (CLAIMED,)
        values |= identifier_arrays("claimed", [(key, place) for place, write in places for key in write.claimed])
        values |= identifier_arrays("freed", [(key, place) for place, write in places for key in write.freed])
    if any(write.added or write.removed for write in group):
        parts += (ADDED_TERMS, REMOVED_TERMS) if has_changed else (ADDED_TERMS,)
        values |= term_arrays("added", [(term, place) for place, write in places for term in write.added])
        values |= term_arrays("removed", [(term, place) for place, write in places for term in write.removed])
    if keyed := [(write.keyed, place) for place, write in places if write.keyed is not None]:
        gate.append(CHECK_KEYS)
        conditions.append(IS_FIRST)
        parts += STORE_RESPONSES
        values |= KeyedResponse.arrays(keyed, cipher)
    go = f"go AS MATERIALIZED (SELECT * FROM writes WHERE {' AND '.join(conditions) or 'true'})"  # noqa: S608
    rows = ROWS
    if len(group) == 1:
        rows = ONE_ROW
        values |= {name: values[name][0] for name in ROW_TYPES}
    return (rows, *gate, go, *parts, LOGGED, QUEUED, PENDING), values


def identifier_arrays(name: str, rows: Sequence[tuple[Identifier, int]]) -> dict[str, Sequence[Any]]:
    return {
        f"{name}_kinds": [key[0] for key, _ in rows],
        f"{name}_indexes": [key[1:] for key, _ in rows],
        f"{name}_places": [place for _, place in rows],
    }


def term_arrays(name: str, rows: Sequence[tuple[int, int]]) -> dict[str, Sequence[Any]]:
    return {f"{name}_terms": [term for term, _ in rows], f"{name}_places": [place for _, place in rows]}


@lru_cache(maxsize=64)
def with_parts(parts: tuple[str, ...]) -> Statement:
    """Returns the places of the writes that were written."""
    return text(f"WITH {', '.join(parts)} SELECT place FROM go")  # noqa: S608
