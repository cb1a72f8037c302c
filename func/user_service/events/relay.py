"""The relay: posts the changes in the outbox to the sink, at least once, and first in order for each user.

docs/adr/0006-outbox-relay.md has the reasons, docs/events.md the guarantees for a sink.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from random import uniform
from time import monotonic
from typing import Final
from uuid import UUID

from user_service.errors import DatabaseUnavailable
from user_service.events.outbox import Lease, Outbox
from user_service.events.sink import POST_SECONDS, POSTS_AT_ONCE, DeliveryOutcome, Sink
from user_service.events.types import PendingChange
from user_service.observability.logging import log
from user_service.observability.metrics import Metrics
from user_service.postgres.retention import EVENTS

PARTITIONS_AT_ONCE: Final = 4
MIN_POLL_SECONDS: Final = 0.1
MAX_POLL_SECONDS: Final = 5.0
MIN_RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 60.0
# An event that the sink refuses is attempted for about 10 to 20 seconds, then dropped, so that its user's later events
# are delivered.
MAX_REFUSALS: Final = 6


class Attempt:
    """One attempt to post a batch: which changes were published, dropped or refused, and whether the sink failed."""

    def __init__(self, changes: Sequence[PendingChange]) -> None:
        self.changes = changes
        self.published: list[PendingChange] = []
        self.dropped: list[PendingChange] = []
        self.refused: list[PendingChange] = []
        self.failed = False
        self.reason = ""

    @property
    def sink_is_failing(self) -> bool:
        """Whether the sink accepted nothing, and failed or refused so many that it can't be because of the events."""
        return not self.published and (self.failed or len(self.refused) >= POSTS_AT_ONCE)

    @property
    def done(self) -> list[int]:
        """The rows that leave the outbox."""
        return [change.seq for change in (*self.published, *self.dropped)]

    @property
    def retried(self) -> list[PendingChange]:
        """The refused changes that stay in the outbox."""
        return [change for change in self.refused if change not in self.dropped]


class Relay:
    """The relay of one replica. Replicas share the partitions by leases."""

    def __init__(self, outbox: Outbox, sink: Sink, metrics: Metrics, *, poll_seconds: float = MAX_POLL_SECONDS) -> None:
        self.outbox = outbox
        self.sink = sink
        self.counts = metrics.events_published
        self.poll_seconds = poll_seconds
        self.woken = asyncio.Event()
        self.stopping = False
        self.posting = asyncio.Semaphore(POSTS_AT_ONCE)
        self.task: asyncio.Task[None] | None = None
        self.draining = asyncio.Lock()
        # A cancelled drain may have left leases, which would block their partitions until they end.
        self.interrupted = False

    def wake(self) -> None:
        """Posts soon, since a change was committed."""
        self.woken.set()

    def start(self) -> None:
        self.task = asyncio.create_task(self.run())

    async def stop(self, *, grace_seconds: float = 1.0) -> None:
        """Waits for running posts for `grace_seconds`, then releases the partitions to other relays."""
        self.stopping = True
        self.woken.set()
        if self.task is not None:
            await asyncio.wait([self.task], timeout=grace_seconds)
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
        await self.sink.close()
        with suppress(DatabaseUnavailable):
            await self.outbox.release_all()

    async def run(self) -> None:
        """Posts until it is stopped: at once after a commit, else at growing intervals."""
        pause = MIN_POLL_SECONDS
        while not self.stopping:
            self.woken.clear()
            try:
                await self.drain()
            except DatabaseUnavailable:
                pause = self.poll_seconds
            except Exception:
                log.exception("unexpected error of the relay")
                pause = self.poll_seconds
            pause = await self.wait(pause)

    async def wait(self, pause: float) -> float:
        """Waits for a commit, for `pause` seconds at most; returns the next pause.

        After a commit the pauses are short: another replica may have released a partition without the change.
        """
        try:
            async with asyncio.timeout(pause):
                await self.woken.wait()
        except TimeoutError:
            return min(2 * pause, self.poll_seconds)
        return min(MIN_POLL_SECONDS, self.poll_seconds)

    async def drain(self, *, include_postponed: bool = False) -> bool:
        """Posts what is due, from each partition until it is empty. Raises DatabaseUnavailable.

        `include_postponed` posts also what is to be retried later. False when the sink did not accept all.
        """
        async with self.draining:
            if self.interrupted:
                await self.outbox.release_all()
            self.interrupted = True
            if include_postponed:
                await self.outbox.retry_now()
            succeeded = await self.post_due()
            self.interrupted = False
        return succeeded

    async def post_due(self) -> bool:
        leases = await self.outbox.lease(PARTITIONS_AT_ONCE, skipped=())
        served = {lease.partition for lease in leases}
        results = await asyncio.gather(
            *(self.post_partitions(lease, served) for lease in leases), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return all(results)

    async def post_partitions(self, lease: Lease, served: set[int]) -> bool:
        """Posts from a partition, then from the next one that is due and not `served`, until there is none."""
        succeeded = await self.post_partition(lease)
        while not self.stopping and (leases := await self.outbox.lease(1, skipped=served)):
            served.add(leases[0].partition)
            succeeded &= await self.post_partition(leases[0])
        return succeeded

    async def post_partition(self, lease: Lease) -> bool:
        """Posts the changes of a partition that are due, then releases it. False when some are to be retried."""
        succeeded = True
        while not self.stopping and (changes := await self.outbox.read(lease)):
            attempt = Attempt(changes)
            self.drop_expired(attempt)
            await self.post_batch(attempt, lease)
            self.drop_refused(attempt)
            succeeded &= not attempt.retried and not attempt.sink_is_failing
            if not await self.settle(attempt, lease) or attempt.sink_is_failing:
                return succeeded
        await self.outbox.release(lease)
        return succeeded

    def drop_expired(self, attempt: Attempt) -> None:
        """Drops changes that are older than the retention."""
        limit = datetime.now(UTC) - EVENTS
        if expired := [change for change in attempt.changes if change.changed_at < limit]:
            attempt.dropped += expired
            self.counts.add("expired", by=len(expired))
            log.error("events were dropped: they were pending for longer than 7 days", extra={"events": len(expired)})

    async def post_batch(self, attempt: Attempt, lease: Lease) -> None:
        """Posts a batch: several users at once, the changes of each user one after the other."""
        by_user: dict[UUID, list[PendingChange]] = {}
        for change in attempt.changes:
            if change not in attempt.dropped:
                by_user.setdefault(change.user_id, []).append(change)
        await asyncio.gather(*(self.post_user_changes(changes, attempt, lease) for changes in by_user.values()))

    async def post_user_changes(self, changes: Sequence[PendingChange], attempt: Attempt, lease: Lease) -> None:
        """Posts one user's changes until one is refused, the sink fails, or the lease could end."""
        for change in changes:
            async with self.posting:
                is_over = self.stopping or monotonic() + POST_SECONDS >= lease.deadline
                if is_over or attempt.failed or attempt.sink_is_failing:
                    return
                outcome, reason = await self.sink.post(change)
            self.counts.add(outcome.value)
            if outcome is DeliveryOutcome.PUBLISHED:
                attempt.published.append(change)
                continue
            attempt.reason = reason
            if outcome is DeliveryOutcome.REFUSED:
                attempt.refused.append(change)
            else:
                attempt.failed = True
            return

    def drop_refused(self, attempt: Attempt) -> None:
        """Drops a change after MAX_REFUSALS refusals, if it is the oldest of its partition.

        A sink that refuses everything thus loses one event of a partition at a time, not all of them.
        """
        for change in attempt.refused:
            if change.is_oldest and change.refusals + 1 >= MAX_REFUSALS:
                attempt.dropped.append(change)
                self.counts.add("dropped")
                log.error(
                    "an event was dropped: the sink refuses it",
                    extra={"event": str(change.event_id), "status": attempt.reason, "attempts": change.refusals + 1},
                )
                return

    async def settle(self, attempt: Attempt, lease: Lease) -> bool:
        """Records the results of an attempt. False when another relay has leased the partition since."""
        seconds = retry_delay(lease.failures) if attempt.sink_is_failing else None
        if seconds is not None:
            log.warning(
                "the sink does not take events; trying again",
                extra={"partition": lease.partition, "reason": attempt.reason, "retry_seconds": round(seconds, 1)},
            )
        if retried := attempt.retried:
            log.warning(
                "the sink refuses events; trying again",
                extra={"event": str(retried[0].event_id), "events": len(retried), "status": attempt.reason},
            )
        refused = {change.seq: retry_delay(change.refusals) for change in retried}
        return await self.outbox.settle(lease, done=attempt.done, refused=refused, retry_seconds=seconds)


def retry_delay(failures: int) -> float:
    """The seconds before the next attempt, which differ by chance so that retries do not coincide."""
    return min(MAX_RETRY_SECONDS, MIN_RETRY_SECONDS * 2.0 ** min(failures, 10)) * uniform(0.5, 1.0)  # noqa: S311
