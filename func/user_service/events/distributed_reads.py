"""Reads of the outbox and of the feed beside the change log, where that is distributed: see postgres/distribution.py.

One statement reads a table of the coordinator, the next one the changes. A transaction commits on the coordinator
first, so a change may be missing for a moment: its row waits, and so do the later ones of its user.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from user_service.events.types import PendingChange
from user_service.postgres.distribution import Fetch

CHANGES: Final = """
SELECT c.user_id, c.version, c.event_id, c.type, c.status, c.changed, c.actor, c.traceparent, c.changed_at
FROM unnest($1::uuid[], $2::integer[], $3::timestamptz[]) AS v(user_id, version, changed_at)
JOIN user_changes c ON c.user_id = v.user_id AND c.version = v.version AND c.changed_at = v.changed_at
"""
# From the cursor's own position on, whose change proves the cursor.
POSITIONS: Final = """
SELECT s.position AS last_position, s.floor, s.floor_id, f.position, f.user_id, f.version, f.changed_at
FROM feed_state s LEFT JOIN LATERAL (
  SELECT * FROM feed WHERE position >= coalesce($1::bigint, s.floor + 1) ORDER BY position LIMIT $2
) f ON true ORDER BY f.position
"""
POSITION: Final = "SELECT position, user_id, version, changed_at FROM feed WHERE position = $1"

Key = tuple[UUID, int]


class LoggedChange(NamedTuple):
    """A row of the change log, without its key."""

    event_id: UUID
    type: str
    status: str
    changed: list[str]
    actor: str
    traceparent: str
    changed_at: datetime


async def find_changes(rows: Sequence[Any], fetch: Fetch) -> dict[Key, LoggedChange]:
    """The changes that rows name, those that are visible."""
    keys = [(row["user_id"], row["version"], row["changed_at"]) for row in rows]
    if not keys:
        return {}
    return {
        (row[0], row[1]): LoggedChange(*row[2:]) for row in await fetch(CHANGES, *map(list, zip(*keys, strict=True)))
    }


async def read_pending(pending: Sequence[Any], fetch: Fetch) -> list[PendingChange]:
    """The pending changes of rows of the outbox: `seq`, `is_oldest`, `refusals` and the change's key."""
    changes = await find_changes(pending, fetch)
    return [
        PendingChange(row["seq"], row["is_oldest"], row["refusals"], row["user_id"], row["version"], *change)
        for row in pending
        if (change := changes.get((row["user_id"], row["version"]))) is not None
    ]


async def read_feed(
    start: int | None, scanned: int, limit: int, change_type: str | None, fetch: Fetch
) -> list[dict[str, Any]]:
    """What `feed.READ` returns. The feed ends before the first change that is missing."""
    rows = await fetch(POSITIONS, start, scanned + 1)
    found = [row for row in rows if row["position"] is not None]
    changes = await find_changes(found, fetch)
    state = {name: rows[0][name] for name in ("last_position", "floor", "floor_id")} | {"cursor_id": None}
    page: list[dict[str, Any]] = []
    for row in found:
        change = changes.get((row["user_id"], row["version"]))
        if row["position"] == start:
            state["cursor_id"] = change and change.event_id
        elif change is None:
            state["last_position"] = row["position"] - 1
            break
        elif change_type in (None, change.type):
            fields = {name: row[name] for name in ("position", "user_id", "version")}
            page.append(fields | change._asdict() | {"time": row["changed_at"], "id": change.event_id})
    return [state | fields for fields in page[:limit]] or [state | {"position": None}]


async def find_change_id(position: int, fetch: Fetch) -> list[tuple[UUID]]:
    """What `feed.CHANGE_ID` returns."""
    return [(change.event_id,) for change in (await find_changes(await fetch(POSITION, position), fetch)).values()]
