"""The outbox in PostgreSQL: the changes whose events are pending, and leases of its partitions.

A partition is leased by one short statement, so that no transaction is open while its events are posted. A change is
visible once it is committed, and a user's changes are committed in the order of `seq`, so nothing waits for other
transactions.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from time import monotonic
from typing import Final
from uuid import UUID, uuid4

from user_service.errors import DatabaseUnavailable
from user_service.events.distributed_reads import read_pending
from user_service.events.types import PendingChange
from user_service.postgres.partitions import match_change
from user_service.postgres.pool import ReadPool

LEASE_SECONDS: Final = 30.0
BATCH_CHANGES: Final = 100
COUNTED_PER_PARTITION: Final = 1000
REFRESH_SECONDS: Final = 5.0

# A user whose event was refused has no other event posted until that one is due.
NOT_WAITING: Final = "o.user_id NOT IN (SELECT w.user_id FROM outbox w WHERE w.retry_at > now())"
# Lateral and ordered, so that one entry of the index is read for each partition, whatever the planner expects.
LEASE: Final = f"""
WITH due AS (
  SELECT p.partition FROM outbox_partitions p
  CROSS JOIN LATERAL (
    SELECT FROM outbox o WHERE o.partition = p.partition AND {NOT_WAITING} ORDER BY o.seq LIMIT 1
  ) one
  WHERE (p.leased_until IS NULL OR p.leased_until < clock_timestamp())
    AND (p.retry_at IS NULL OR p.retry_at < clock_timestamp())
    AND p.partition <> ALL ($4::smallint[])
  ORDER BY random() LIMIT $3 FOR UPDATE OF p SKIP LOCKED
)
UPDATE outbox_partitions p SET owner = $1, leased_until = clock_timestamp() + $2 * interval '1 second'
FROM due WHERE p.partition = due.partition
RETURNING p.partition, p.failures
"""  # noqa: S608
# Without the changes, which are read by a second statement where they are distributed.
PENDING: Final = f"""
SELECT o.seq, o.seq = (SELECT min(f.seq) FROM outbox f WHERE f.partition = $1) AS is_oldest, o.refusals,
  o.user_id, o.version, o.changed_at
FROM outbox o WHERE o.partition = $1 AND {NOT_WAITING} ORDER BY o.seq LIMIT {BATCH_CHANGES}
"""  # noqa: S608
# A change that is no longer in the change log counts as expired. Lateral, for the reason that CHANGE in feed.py has.
READ: Final = f"""
SELECT o.seq, o.is_oldest, o.refusals, o.user_id, o.version,
  c.event_id, c.type, c.status, c.changed, c.actor, c.traceparent, coalesce(c.changed_at, to_timestamp(0))
FROM ({PENDING}) o LEFT JOIN LATERAL (SELECT * FROM user_changes c WHERE {match_change("o")} LIMIT 1) c ON true
ORDER BY o.seq
"""  # noqa: S608
SETTLE: Final = """
WITH gone AS (DELETE FROM outbox WHERE partition = $1 AND seq = ANY ($3::bigint[])),
waiting AS (
  UPDATE outbox o SET refusals = o.refusals + 1, retry_at = clock_timestamp() + v.seconds * interval '1 second'
  FROM unnest($4::bigint[], $5::float8[]) AS v(seq, seconds) WHERE o.partition = $1 AND o.seq = v.seq
)
UPDATE outbox_partitions SET
  failures = CASE WHEN $7::float8 IS NULL THEN 0 ELSE failures + 1 END,
  retry_at = clock_timestamp() + $7 * interval '1 second',
  owner = CASE WHEN $7 IS NULL THEN owner END,
  leased_until = CASE WHEN $7 IS NULL THEN clock_timestamp() + $6 * interval '1 second' END
WHERE partition = $1 AND owner = $2 RETURNING partition
"""
RELEASE: Final = "UPDATE outbox_partitions SET owner = NULL, leased_until = NULL WHERE owner = $1 AND partition = $2"
RELEASE_ALL: Final = "UPDATE outbox_partitions SET owner = NULL, leased_until = NULL WHERE owner = $1"
RETRY_NOW: Final = """
WITH refused AS (UPDATE outbox SET retry_at = NULL WHERE retry_at IS NOT NULL)
UPDATE outbox_partitions SET retry_at = NULL WHERE retry_at IS NOT NULL
"""
BACKLOG: Final = f"""
SELECT coalesce(sum(counted.pending), 0)::bigint,
  coalesce(extract(epoch FROM clock_timestamp() - min(counted.oldest)), 0)::float8
FROM outbox_partitions p CROSS JOIN LATERAL (
  SELECT count(*) AS pending, min(w.changed_at) AS oldest FROM (
    SELECT o.changed_at FROM outbox o WHERE o.partition = p.partition ORDER BY o.seq LIMIT {COUNTED_PER_PARTITION}
  ) w
) counted
"""  # noqa: S608


class Lease:
    """The right to post from a partition until `deadline`, on this process's monotonic clock."""

    __slots__ = ("deadline", "failures", "partition")

    def __init__(self, partition: int, failures: int, deadline: float) -> None:
        self.partition = partition
        self.failures = failures
        self.deadline = deadline


class Outbox:
    """The pending changes, for one of several relays. All methods raise DatabaseUnavailable."""

    def __init__(self, pool: ReadPool, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.pool = pool
        self.lease_seconds = lease_seconds
        self.owner: UUID = uuid4()

    async def lease(self, limit: int, *, skipped: Collection[int]) -> list[Lease]:
        """Up to `limit` partitions with changes that are due."""
        deadline = monotonic() + self.lease_seconds
        rows = await self.pool.fetch(LEASE, self.owner, self.lease_seconds, limit, list(skipped))
        return [Lease(partition, failures, deadline) for partition, failures in rows]

    async def read(self, lease: Lease) -> list[PendingChange]:
        """The next changes of the partition, up to BATCH_CHANGES, each user's in order."""
        if await self.pool.is_distributed():
            return await read_pending(await self.pool.fetch(PENDING, lease.partition), self.pool.fetch)
        return [PendingChange(*row) for row in await self.pool.fetch(READ, lease.partition)]

    async def settle(
        self, lease: Lease, *, done: Collection[int], refused: Mapping[int, float], retry_seconds: float | None = None
    ) -> bool:
        """Deletes the rows of `done`, postpones each of `refused` by its seconds, and renews the lease.

        With `retry_seconds` it releases the partition instead: any relay may retry it after that time. False when
        another relay has leased the partition since; the rows are settled all the same.
        """
        deadline = monotonic() + self.lease_seconds
        waits = list(refused), list(refused.values())
        arguments = lease.partition, self.owner, list(done), *waits, self.lease_seconds, retry_seconds
        rows = await self.pool.fetch(SETTLE, *arguments)
        lease.deadline, lease.failures = deadline, 0
        return bool(rows)

    async def release(self, lease: Lease) -> None:
        await self.pool.fetch(RELEASE, self.owner, lease.partition)

    async def release_all(self) -> None:
        """Releases every partition that this relay has leased."""
        await self.pool.fetch(RELEASE_ALL, self.owner)

    async def retry_now(self) -> None:
        """Makes all changes due that wait for a retry."""
        await self.pool.fetch(RETRY_NOW)

    async def backlog(self) -> tuple[int, float]:
        """The number of pending changes, counted up to 1,000 per partition, and the age of the oldest in seconds."""
        ((pending, oldest),) = await self.pool.fetch(BACKLOG)
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
