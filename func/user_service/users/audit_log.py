"""The audit over all users: changes, and reads of exports, the newest first, by actor, type, user and time.

An export is an entry of the change log with a negative version, which no user has; one of many users has no user. So
the log's partitions, retention and erasure apply to it.

A page asks for the newest entries of each type, by the index of types or that of actors and types, and merges them:
its cost depends neither on its depth nor on how rare a type is. A page of one user reads that user's entries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from user_service.postgres.session import Session
from user_service.postgres.statements import Statement, text
from user_service.users.audit import TRAIL_COLUMNS
from user_service.users.change_log import CHANGE_COLUMNS, CHANGE_TYPES, Origin
from user_service.users.cursors import Cursor
from user_service.values.ids import new_id

EXPORTED: Final = "exported"
ENTRY_TYPES: Final = (*CHANGE_TYPES, EXPORTED)
# The user of an export of many users.
NO_USER: Final = UUID(int=0)

ENTRY_COLUMNS: Final = f"user_id, {TRAIL_COLUMNS}"
NEWEST: Final = "ORDER BY changed_at DESC, event_id DESC LIMIT :limit"
MERGED: Final = "ORDER BY changed_at DESC, id DESC LIMIT :limit"
CONDITIONS: Final[Mapping[str, str]] = {
    "actor": "actor = :actor",
    "after": "changed_at > :after",
    "before": "changed_at < :before",
    # The first condition selects partitions and, in the indexes, the place at which a page starts.
    "cursor": "changed_at <= :at AND (changed_at, event_id) < (:at, :id)",
}
INSERT_EXPORT: Final = text(
    f"INSERT INTO user_changes ({CHANGE_COLUMNS})"  # noqa: S608
    " VALUES (:user_id, :version, :event_id, :type, '', '{}', now(), :actor, :request_id, :traceparent, :reason)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """The parameters of a page. `cursor` has the time and the id of the last entry of the page before."""

    actor: str | None = None
    type: str | None = None
    user_id: UUID | None = None
    after: datetime | None = None
    before: datetime | None = None
    limit: int = 50
    cursor: Cursor | None = None


class AuditLog:
    """The entries of all users, in the transaction of `session`."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def page(self, query: AuditQuery) -> tuple[list[dict[str, Any]], Cursor | None]:
        """Entries, the newest first, and the cursor of the next page; None on the last page."""
        is_distributed = query.user_id is None and await self.session.is_distributed()
        types = (query.type,) if query.type is not None else ENTRY_TYPES
        given = tuple(name for name in CONDITIONS if getattr(query, name) is not None)
        statement = select_entries(types if is_distributed else (), given, of_user=query.user_id is not None)
        values: dict[str, object] = {"types": types, "limit": query.limit + 1, "user_id": query.user_id}
        values |= {"actor": query.actor, "after": query.after, "before": query.before}
        if query.cursor is not None:
            values |= {"at": query.cursor.updated_at, "id": query.cursor.id}
        rows = await self.session.execute(statement, values)
        found = [entry_document(row) for row in rows[: query.limit]]
        return found, Cursor(found[-1]["changed_at"], rows[query.limit - 1]["id"]) if len(rows) > query.limit else None

    async def note_export(self, origin: Origin, user_id: UUID | None = None) -> None:
        """Writes that a user, or many users for None, were exported."""
        event_id = new_id()
        values = {
            "user_id": user_id or NO_USER,
            # Random, since two exports of one user may be noted at the same time.
            "version": -1 - (event_id.int & 0x3FFF_FFFF),
            "event_id": event_id,
            "type": EXPORTED,
            **origin.columns,
        }
        await self.session.execute(INSERT_EXPORT, values)


@lru_cache(maxsize=512)
def select_entries(branches: Sequence[str], given: Sequence[str], *, of_user: bool) -> Statement:
    """Selects a page with the conditions `given`. On a distributed database, which can't join a set of types with the
    newest entries of each, `branches` are the types, one after the other.
    """
    conditions = "".join(f" AND {CONDITIONS[name]}" for name in given)
    entries = f"SELECT {ENTRY_COLUMNS} FROM user_changes WHERE"  # noqa: S608
    if of_user:
        return text(f"{entries} user_id = :user_id AND type = ANY(CAST(:types AS text[])){conditions} {NEWEST}")
    if branches:
        # The types are those of ENTRY_TYPES.
        selects = (f"({entries} type = '{name}'{conditions} {NEWEST})" for name in branches)
        return text(f"SELECT * FROM ({' UNION ALL '.join(selects)}) entries {MERGED}")  # noqa: S608
    return text(
        "SELECT entries.* FROM unnest(CAST(:types AS text[])) AS wanted(name)"  # noqa: S608
        f" CROSS JOIN LATERAL ({entries} type = wanted.name{conditions} {NEWEST}) entries {MERGED}"
    )


def entry_document(row: Mapping[Any, Any]) -> dict[str, Any]:
    """An entry in a response. An erasure has cleared `request_id`, which callers choose."""
    is_change = row["version"] > 0
    return {
        **row,
        "id": str(row["id"]),
        "user_id": str(row["user_id"]) if row["user_id"] != NO_USER else None,
        "version": row["version"] if is_change else None,
        "status": row["status"] if is_change else None,
        "request_id": row["request_id"] or None,
    }
