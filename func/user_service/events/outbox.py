"""The outbox in PostgreSQL: the change log behind the cursor of each partition, and leases of the partitions.

A partition is leased in one short statement, so that no transaction is open while its events are posted. A row is
pending once every transaction that could still insert a row before it has ended: `txid` below the snapshot's xmin.
Tables and columns call a partition `lane`.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from user_service.errors import DatabaseUnavailable
from user_service.events.types import PendingChange, Position
from user_service.postgres.pool import ReadPool

LEASE_SECONDS: Final = 30.0
COUNTED_PER_PARTITION: Final = 1000
REFRESH_SECONDS: Final = 5.0

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
MOVE_CURSOR: Final = """
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
    ORDER BY c.txid, c.user_id, c.version LIMIT {COUNTED_PER_PARTITION}
  ) w
) p
"""  # noqa: S608


class Lease:
    """The right to post from a partition until `deadline`, on this process's monotonic clock."""

    __slots__ = ("deadline", "failures", "partition", "position", "refusals")

    def __init__(self, partition: int, position: Position, failures: int, refusals: int, deadline: float) -> None:
        self.partition = partition
        self.position = position
        self.failures = failures
        self.refusals = refusals
        self.deadline = deadline


class Outbox:
    """The pending changes, for one of several relays. All methods raise DatabaseUnavailable."""

    def __init__(self, pool: ReadPool, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.pool = pool
        self.lease_seconds = lease_seconds
        self.owner: UUID = uuid4()

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        try:
            return await self.pool.fetch(statement, *arguments)
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            raise DatabaseUnavailable("The database is not migrated yet; run `user-service migrate`.") from None

    async def lease(self, limit: int, *, skipped: Collection[int], include_postponed: bool = False) -> list[Lease]:
        """Up to `limit` partitions with pending changes; those to be retried later only with `include_postponed`."""
        deadline = monotonic() + self.lease_seconds
        rows = await self.fetch(LEASE, self.owner, self.lease_seconds, limit, not include_postponed, list(skipped))
        return [
            Lease(partition, Position(*position), failures, refusals, deadline)
            for partition, *position, failures, refusals in rows
        ]

    async def read(self, lease: Lease, limit: int) -> list[PendingChange]:
        """The next changes of the partition, in order."""
        return [PendingChange(*row) for row in await self.fetch(READ, lease.partition, *lease.position, limit)]

    async def move_cursor(self, lease: Lease, position: Position) -> bool:
        """Moves the cursor and renews the lease; False when another relay has leased the partition since."""
        deadline = monotonic() + self.lease_seconds
        rows = await self.fetch(MOVE_CURSOR, lease.partition, self.owner, *position, self.lease_seconds)
        lease.position, lease.deadline, lease.failures, lease.refusals = position, deadline, 0, 0
        return bool(rows)

    async def postpone(self, lease: Lease, *, seconds: float, refused: bool) -> None:
        """Releases the partition; any relay may retry it after `seconds`."""
        await self.fetch(POSTPONE, lease.partition, self.owner, seconds, int(refused))

    async def release(self, lease: Lease) -> None:
        await self.fetch(RELEASE, self.owner, lease.partition)

    async def release_all(self) -> None:
        """Releases every partition that this relay has leased."""
        await self.fetch(RELEASE_ALL, self.owner)

    async def backlog(self) -> tuple[int, float]:
        """The number of pending changes, counted up to 1,000 per partition, and the age of the oldest in seconds."""
        ((pending, oldest),) = await self.fetch(BACKLOG)
        return pending, max(0.0, oldest)


class Backlog:
    """The pending changes as the metrics show them: at most five seconds old, counted up to 1,000 per partition."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.pending = 0
        self.oldest_seconds = 0.0
        self.refreshed_at = -REFRESH_SECONDS

    async def refresh(self) -> None:
        """Counts again after five seconds; keeps the last count while the database does not answer."""
        if monotonic() - self.refreshed_at < REFRESH_SECONDS:
            return
        self.refreshed_at = monotonic()
        with suppress(DatabaseUnavailable):
            self.pending, self.oldest_seconds = await self.outbox.backlog()
