"""Reads of the outbox and of the feed beside the change log, where that is distributed: see postgres/distribution.py.

One statement reads a table of the coordinator, the next one the changes. A transaction commits on the coordinator
first, so a change may be missing for a moment: its row waits, and so do the later ones of its user.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from user_service.events.feed_places import select_places
from user_service.events.types import PendingChange
from user_service.postgres.distribution import Fetch
from user_service.postgres.retention import EVENTS

# From `user_id` on the columns are the fields of PendingChange.
CHANGES: Final = """
SELECT c.user_id, c.version, c.event_id, c.type, c.status, c.changed, c.actor, c.traceparent, c.changed_at
FROM unnest($1::uuid[], $2::integer[], $3::timestamptz[]) AS v(user_id, version, changed_at)
JOIN user_changes c ON c.user_id = v.user_id AND c.version = v.version AND c.changed_at = v.changed_at
"""
# From the cursor's own position on, whose change proves the cursor. Positions have no gaps.
POSITIONS: Final = f"""
SELECT s.position AS last_position, s.floor, s.floor_id, f.position, f.user_id, f.version, f.changed_at
FROM feed_state s LEFT JOIN LATERAL (
  {select_places("coalesce($1::bigint - 1, s.floor)", "coalesce($1::bigint, s.floor) + $2", limit="$2 + 1")}
) f ON true ORDER BY f.position
"""  # noqa: S608
POSITION: Final = select_places("$1::bigint - 1", "$1::bigint", limit="1")

# The fields of PendingChange after `version` for a change that is no longer in the change log: it counts as expired.
GONE: Final[Sequence[Any]] = (None,) * 6 + (datetime.fromtimestamp(0, UTC),)


async def find_changes(rows: Sequence[Any], fetch: Fetch) -> dict[tuple[UUID, int], Any]:
    """The changes that rows name, those that are visible, by user and version."""
    keys = [(row["user_id"], row["version"], row["changed_at"]) for row in rows]
    if not keys:
        return {}
    found = await fetch(CHANGES, *map(list, zip(*keys, strict=True)))
    return {(change["user_id"], change["version"]): change for change in found}


async def read_pending(pending: Sequence[Any], fetch: Fetch) -> list[PendingChange]:
    """The pending changes of rows of the outbox: `seq`, `is_oldest`, `refusals` and the change's key.

    A change that is missing is left out, unless its event has expired: it will not become visible any more.
    """
    changes, limit = await find_changes(pending, fetch), datetime.now(UTC) - EVENTS
    found = []
    for row in pending:
        place, key = (row["seq"], row["is_oldest"], row["refusals"]), (row["user_id"], row["version"])
        if (change := changes.get(key)) is not None:
            found.append(PendingChange(*place, *change))
        elif row["changed_at"] < limit:
            found.append(PendingChange(*place, *key, *GONE))
    return found


async def read_feed(
    start: int | None, scanned: int, limit: int, change_type: str | None, fetch: Fetch
) -> list[dict[str, Any]]:
    """What `feed.READ` returns. The feed ends before the first change that is missing, and `is_cut` then."""
    rows = await fetch(POSITIONS, start, scanned)
    found = [row for row in rows if row["position"] is not None]
    changes = await find_changes(found, fetch)
    state = {name: rows[0][name] for name in ("last_position", "floor", "floor_id")}
    state |= {"cursor_id": None, "is_cut": False}
    page: list[dict[str, Any]] = []
    for row in found:
        change = changes.get((row["user_id"], row["version"]))
        if row["position"] == start:
            state["cursor_id"] = change and change["event_id"]
        elif change is None:
            state |= {"last_position": row["position"] - 1, "is_cut": True}
            break
        elif change_type in (None, change["type"]):
            page.append({**change, "position": row["position"], "time": change["changed_at"], "id": change["event_id"]})
    return [state | fields for fields in page[:limit]] or [state | {"position": None}]


async def find_change_id(position: int, fetch: Fetch) -> list[tuple[UUID]]:
    """What `feed.CHANGE_ID` returns."""
    changes = await find_changes(await fetch(POSITION, position), fetch)
    return [(change["event_id"],) for change in changes.values()]
