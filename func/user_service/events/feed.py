"""The change feed in PostgreSQL: every committed change once, in one order, each user's versions in theirs.

A transaction writes its changes to `feed_queue`. After its commit a sequencer moves them to `feed` and gives them the
next positions: one statement, by one session at a time, so that positions are committed in their order and a reader
that has read up to one has missed none before it. No transaction that is still open matters. docs/adr/0014-feed.md has
the reasons.
"""

from asyncio import Lock
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID

from user_service.errors import CursorGone
from user_service.events import distributed_reads
from user_service.events.feed_places import select_places
from user_service.postgres.partitions import match_change
from user_service.postgres.pool import ReadPool
from user_service.users.cursors import FeedCursor

# A statement takes this many rows of the queue at most, and no further one after this many changes.
QUEUE_ROWS: Final = 1000
SEQUENCED_CHANGES: Final = 5000
# A reader that finds a longer queue does not wait for its end.
SEQUENCING_SECONDS: Final = 1.0
# How many changes a page of one type may pass over.
SCANNED_CHANGES: Final = 10_000

PEEK: Final = "SELECT position, EXISTS (SELECT FROM feed_queue) FROM feed_state"
# The row of feed_state is locked before the queue is deleted from. A sequencer that has waited for it passes over rows
# that were deleted meanwhile; the lowest numbers that it sees contain all earlier changes of their users.
SEQUENCE: Final = f"""
WITH state AS MATERIALIZED (
  SELECT position, has_sets FROM feed_state WHERE EXISTS (SELECT FROM feed_queue) FOR UPDATE
), taken AS (
  DELETE FROM feed_queue WHERE ctid = ANY (ARRAY(
    SELECT counted.row FROM state, (
      SELECT q.row, sum(q.changes) OVER (ORDER BY q.seq) - q.changes AS before FROM (
        SELECT ctid AS row, seq, cardinality(user_ids) AS changes FROM feed_queue ORDER BY seq LIMIT {QUEUE_ROWS}
      ) q
    ) counted WHERE counted.before < {SEQUENCED_CHANGES}
  )) RETURNING seq, changed_at, user_ids, versions
), numbered AS (
  SELECT t.*, state.position + sum(t.changes) OVER (ORDER BY t.seq) AS last, state.has_sets AND t.changes > 1 AS is_set
  FROM state, (SELECT *, cardinality(user_ids) AS changes FROM taken) t
), added AS (
  INSERT INTO feed (position, user_id, version, changed_at)
  SELECT generate_series(n.last - n.changes + 1, n.last), unnest(n.user_ids), unnest(n.versions), n.changed_at
  FROM numbered n WHERE NOT n.is_set
), added_sets AS (
  INSERT INTO feed (position, user_id, version, changed_at, user_ids, versions)
  SELECT n.last, n.user_ids[n.changes], n.versions[n.changes], n.changed_at, n.user_ids, n.versions
  FROM numbered n WHERE n.is_set
)
UPDATE feed_state SET position = state.position + total.changes
FROM state, (SELECT sum(changes) AS changes FROM numbered) total WHERE total.changes IS NOT NULL
RETURNING feed_state.position
"""  # noqa: S608
# What is waiting is counted in as many rows of the queue as one statement of the sequencer takes.
STATE: Final = f"""
SELECT s.position, (
  SELECT coalesce(sum(cardinality(q.user_ids)), 0) FROM (SELECT user_ids FROM feed_queue LIMIT {QUEUE_ROWS}) q
) AS waiting, (
  SELECT extract(epoch FROM clock_timestamp() - min(changed_at))::float8 FROM feed_queue
) AS oldest_seconds
FROM feed_state s
"""  # noqa: S608
# Lateral, so that each change is found by the primary key of its partition, whatever the planner expects.
CHANGE: Final = f"""
SELECT c.event_id, c.type, c.status, c.changed, c.actor FROM user_changes c
WHERE {match_change("f")} LIMIT 1
"""  # noqa: S608
PLACE: Final = select_places("$1::bigint - 1", "$1::bigint", limit="1")
CHANGE_ID: Final = f"SELECT c.event_id FROM ({PLACE}) f CROSS JOIN LATERAL ({CHANGE}) c"  # noqa: S608
START: Final = "coalesce($1::bigint, s.floor)"
# One row without a change where there is none after the cursor.
READ: Final = f"""
SELECT s.position AS last_position, s.floor, s.floor_id, ({CHANGE_ID}) AS cursor_id, page.*
FROM feed_state s LEFT JOIN LATERAL (
  SELECT f.position, f.user_id, f.version, c.type, c.status, c.changed, c.actor, f.changed_at AS time, c.event_id AS id
  FROM ({select_places(START, f"{START} + $2", limit="$2")}) f CROSS JOIN LATERAL ({CHANGE}) c
  WHERE $4::text IS NULL OR c.type = $4 ORDER BY f.position LIMIT $3
) page ON true
ORDER BY page.position
"""  # noqa: S608


class FeedPage(NamedTuple):
    """Changes in order, the cursor after them, and the last position of the feed.

    `is_cut`: the change after the last position is not visible yet, which happens on Citus.
    """

    items: list[dict[str, Any]]
    next: FeedCursor
    last_position: int
    is_cut: bool


class FeedState(NamedTuple):
    """The last position, the number of committed changes that have none, and the age of the oldest of these, if any."""

    last_position: int
    waiting: int
    oldest_seconds: float | None


class Feed:
    """The feed, for readers and sequencers in any number of processes. All methods raise DatabaseUnavailable."""

    def __init__(self, pool: ReadPool) -> None:
        self.pool = pool
        # Sequencers of one process wait here, without a connection.
        self.sequencing = Lock()

    async def sequence(self) -> int:
        """Gives positions to committed changes that have none, for a second at most; returns the last position."""
        async with self.sequencing:
            deadline = monotonic() + SEQUENCING_SECONDS
            ((position, is_pending),) = await self.pool.fetch(PEEK)
            while is_pending and monotonic() < deadline:
                await self.pool.fetch(SEQUENCE)
                ((position, is_pending),) = await self.pool.fetch(PEEK)
        last: int = position
        return last

    async def state(self) -> FeedState:
        """The state of the sequencer. What is waiting is counted in 1,000 rows of the queue."""
        ((position, waiting, seconds),) = await self.pool.fetch(STATE)
        return FeedState(position, int(waiting), None if seconds is None else max(0.0, seconds))

    async def read(self, after: FeedCursor | None, *, limit: int, change_type: str | None) -> FeedPage:
        """The changes after a cursor, or from the beginning of what is kept. Raises CursorGone.

        A page of one type may be empty before the end of the feed; its cursor is then further on.
        """
        scanned = limit if change_type is None else SCANNED_CHANGES
        start = after.position if after is not None else None
        rows = await self.read_rows(start, scanned, limit, change_type)
        state = rows[0]
        cursor = check_cursor(after, state)
        found = rows if state["position"] is not None else []
        items = [feed_item(row) for row in found]
        if change_type is not None and len(found) < limit:
            # Positions have no gaps.
            scanned_to = min(cursor.position + scanned, state["last_position"])
            if scanned_to > cursor.position:
                cursor = FeedCursor(scanned_to, await self.find_change_id(scanned_to))
        elif found:
            cursor = FeedCursor(found[-1]["position"], found[-1]["id"])
        return FeedPage(items, cursor, state["last_position"], state.get("is_cut", False))

    async def read_rows(
        self, start: int | None, scanned: int, limit: int, change_type: str | None
    ) -> Sequence[Mapping[str, Any]]:
        if await self.pool.is_distributed():
            return await distributed_reads.read_feed(start, scanned, limit, change_type, self.pool.fetch)
        rows: Sequence[Mapping[str, Any]] = await self.pool.fetch(READ, start, scanned, limit, change_type)
        return rows

    async def find_change_id(self, position: int) -> UUID:
        """The id of the change at a position. Raises CursorGone."""
        if await self.pool.is_distributed():
            rows: Sequence[Any] = await distributed_reads.find_change_id(position, self.pool.fetch)
        else:
            rows = await self.pool.fetch(CHANGE_ID, position)
        if not rows:
            raise CursorGone
        change_id: UUID = rows[0][0]
        return change_id


def feed_item(row: Any) -> dict[str, Any]:
    return {
        "user_id": str(row["user_id"]),
        "version": row["version"],
        "type": row["type"],
        "status": row["status"],
        "changed": row["changed"],
        "actor": row["actor"],
        "time": row["time"],
        "id": str(row["id"]),
    }


def check_cursor(cursor: FeedCursor | None, state: Any) -> FeedCursor:
    """The cursor, or that of the beginning of what is kept. Raises CursorGone.

    It is gone if later changes are no longer kept, or if the database was restored to an earlier moment, after which
    its position does not exist or has another change.
    """
    if cursor is None:
        return FeedCursor(state["floor"], state["floor_id"])
    is_floor = cursor.position == state["floor"]
    if cursor.position < state["floor"] or cursor.change_id != state["floor_id" if is_floor else "cursor_id"]:
        raise CursorGone
    return cursor
