"""The outbox in PostgreSQL: the change log beyond each lane's cursor, and who may post from which lane.

A lane is leased in one short statement, so that no transaction is open while its events are posted. A row is pending
once every transaction that could still put another in front of it has ended: `txid` below the snapshot's xmin.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from user_service.errors import DatabaseUnavailable
from user_service.events.types import PendingChange, Place
from user_service.postgres.pool import ReadPool

LEASE_SECONDS: Final = 30.0
COUNTED_PER_LANE: Final = 1000
LOOK_SECONDS: Final = 5.0

HORIZON: Final = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
BEYOND_CURSOR: Final = "c.lane = l.lane AND (c.txid, c.user_id, c.version) > (l.txid, l.user_id, l.version)"
LEASE: Final = f"""
WITH due AS (
  SELECT l.lane FROM outbox_lanes l
  WHERE (l.leased_until IS NULL OR l.leased_until < clock_timestamp())
    AND (NOT $4 OR l.retry_at IS NULL OR l.retry_at < clock_timestamp())
    AND l.lane <> ALL ($5::smallint[])
    AND EXISTS (SELECT FROM user_changes c WHERE {BEYOND_CURSOR} AND c.txid < {HORIZON})
  ORDER BY random() LIMIT $3 FOR UPDATE OF l SKIP LOCKED
)
UPDATE outbox_lanes l SET owner = $1, leased_until = clock_timestamp() + $2 * interval '1 second'
FROM due WHERE l.lane = due.lane
RETURNING l.lane, l.txid, l.user_id, l.version, l.failures, l.refusals
"""  # noqa: S608
READ: Final = f"""
SELECT c.txid, c.user_id, c.version, c.type, c.status, c.changed, c.actor, c.traceparent, c.changed_at
FROM user_changes c
WHERE c.lane = $1 AND (c.txid, c.user_id, c.version) > ($2, $3, $4) AND c.txid < {HORIZON}
ORDER BY c.txid, c.user_id, c.version LIMIT $5
"""  # noqa: S608
ADVANCE: Final = """
UPDATE outbox_lanes SET txid = $3, user_id = $4, version = $5, failures = 0, refusals = 0, retry_at = NULL,
  leased_until = clock_timestamp() + $6 * interval '1 second'
WHERE lane = $1 AND owner = $2 RETURNING lane
"""
POSTPONE: Final = """
UPDATE outbox_lanes SET failures = failures + 1, refusals = refusals + $4, owner = NULL, leased_until = NULL,
  retry_at = clock_timestamp() + $3 * interval '1 second'
WHERE lane = $1 AND owner = $2
"""
RELEASE: Final = "UPDATE outbox_lanes SET owner = NULL, leased_until = NULL WHERE owner = $1 AND lane = $2"
RELEASE_ALL: Final = "UPDATE outbox_lanes SET owner = NULL, leased_until = NULL WHERE owner = $1"
BACKLOG: Final = f"""
SELECT coalesce(sum(p.pending), 0)::bigint,
  coalesce(extract(epoch FROM clock_timestamp() - min(p.oldest)), 0)::float8
FROM outbox_lanes l CROSS JOIN LATERAL (
  SELECT count(*) AS pending, min(w.changed_at) AS oldest FROM (
    SELECT c.changed_at FROM user_changes c WHERE {BEYOND_CURSOR}
    ORDER BY c.txid, c.user_id, c.version LIMIT {COUNTED_PER_LANE}
  ) w
) p
"""  # noqa: S608


class Lease:
    """The right to post from a lane until `deadline`, on this process's monotonic clock."""

    __slots__ = ("deadline", "failures", "lane", "place", "refusals")

    def __init__(self, lane: int, place: Place, failures: int, refusals: int, deadline: float) -> None:
        self.lane = lane
        self.place = place
        self.failures = failures
        self.refusals = refusals
        self.deadline = deadline


class Outbox:
    """What waits, for one of several relays. All methods raise DatabaseUnavailable."""

    def __init__(self, pool: ReadPool, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.pool = pool
        self.lease_seconds = lease_seconds
        self.owner: UUID = uuid4()

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        try:
            return await self.pool.fetch(statement, *arguments)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            raise DatabaseUnavailable("The database is not migrated yet; run `user-service migrate`.") from None

    async def lease(self, limit: int, *, skipped: Collection[int], patient: bool) -> list[Lease]:
        """Up to `limit` lanes in which something is pending; with `patient`, none that is to be retried later."""
        deadline = monotonic() + self.lease_seconds
        rows = await self.fetch(LEASE, self.owner, self.lease_seconds, limit, patient, list(skipped))
        return [Lease(lane, Place(*place), failures, refusals, deadline) for lane, *place, failures, refusals in rows]

    async def read(self, lease: Lease, limit: int) -> list[PendingChange]:
        """What is next in the lane, in order."""
        return [PendingChange(*row) for row in await self.fetch(READ, lease.lane, *lease.place, limit)]

    async def advance(self, lease: Lease, place: Place) -> bool:
        """Moves the cursor and renews the lease; False when the lane is somebody else's by now."""
        deadline = monotonic() + self.lease_seconds
        rows = await self.fetch(ADVANCE, lease.lane, self.owner, *place, self.lease_seconds)
        lease.place, lease.deadline, lease.failures, lease.refusals = place, deadline, 0, 0
        return bool(rows)

    async def postpone(self, lease: Lease, *, seconds: float, refused: bool) -> None:
        """Gives the lane back, to be tried again later by whoever comes first."""
        await self.fetch(POSTPONE, lease.lane, self.owner, seconds, int(refused))

    async def release(self, lease: Lease) -> None:
        await self.fetch(RELEASE, self.owner, lease.lane)

    async def release_all(self) -> None:
        """Gives back whatever this relay still holds."""
        await self.fetch(RELEASE_ALL, self.owner)

    async def backlog(self) -> tuple[int, float]:
        """How many changes wait, counted up to 1,000 a lane, and the age of the oldest in seconds."""
        ((pending, oldest),) = await self.fetch(BACKLOG)
        return pending, max(0.0, oldest)


class Backlog:
    """What waits, as the metrics show it: a look is at most five seconds old, and counts up to 1,000 a lane."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.pending = 0
        self.oldest_seconds = 0.0
        self.looked_at = -LOOK_SECONDS

    async def look(self) -> None:
        """Refreshes an old look; keeps it where the database does not answer."""
        if monotonic() - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = monotonic()
        with suppress(DatabaseUnavailable):
            self.pending, self.oldest_seconds = await self.outbox.backlog()
