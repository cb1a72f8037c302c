"""The relay: posts pending changes to the sink after their commit, at least once, and in order for each user.

docs/adr/0006-outbox-relay.md has the reasons, docs/events.md the guarantees for a sink.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile
from random import uniform
from time import monotonic
from typing import Final
from uuid import UUID

from user_service.errors import DatabaseUnavailable
from user_service.events.outbox import Lease, Outbox
from user_service.events.sink import POST_SECONDS, POSTS_AT_ONCE, DeliveryOutcome, Sink
from user_service.events.types import ChangeKey, PendingChange
from user_service.observability.logging import log
from user_service.observability.metrics import Metrics
from user_service.postgres.retention import EVENTS

BATCH_CHANGES: Final = 100
PARTITIONS_AT_ONCE: Final = 4
MIN_POLL_SECONDS: Final = 0.1
MAX_POLL_SECONDS: Final = 5.0
MIN_RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 60.0
# An event that the sink refuses is attempted for about half a minute, then dropped, so that it does not block others.
MAX_REFUSALS: Final = 6


class Attempt:
    """One attempt to post a batch: its handled changes, those that the sink refused, and whether the sink failed."""

    def __init__(self, changes: Sequence[PendingChange], handled: set[ChangeKey]) -> None:
        self.changes = changes
        self.handled = handled & {change.key for change in changes}
        self.refused: set[ChangeKey] = set()
        self.failed = False
        self.reason = ""

    @property
    def first_unhandled(self) -> PendingChange | None:
        """The change that the cursor can't pass."""
        return next((change for change in self.changes if change.key not in self.handled), None)

    @property
    def passed(self) -> list[PendingChange]:
        """The changes that the cursor can pass."""
        return list(takewhile(lambda change: change.key in self.handled, self.changes))

    @property
    def is_blocked(self) -> bool:
        """Whether the sink refused the change that the cursor can't pass."""
        return (change := self.first_unhandled) is not None and change.key in self.refused


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
        # By partition, changes that were posted behind one that was not: the next attempt does not post them again.
        self.handled: dict[int, set[ChangeKey]] = {}
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

        After a commit the pauses are short: a change becomes pending when all older transactions have ended.
        """
        try:
            async with asyncio.timeout(pause):
                await self.woken.wait()
        except TimeoutError:
            return min(2 * pause, self.poll_seconds)
        return min(MIN_POLL_SECONDS, self.poll_seconds)

    async def drain(self, *, include_postponed: bool = False) -> bool:
        """Posts until nothing is due. False when the sink failed. Raises DatabaseUnavailable.

        `include_postponed` posts also from partitions that are to be retried later.
        """
        async with self.draining:
            if self.interrupted:
                await self.outbox.release_all()
            self.interrupted = True
            succeeded = await self.post_due(include_postponed=include_postponed)
            self.interrupted = False
        return succeeded

    async def post_due(self, *, include_postponed: bool) -> bool:
        failed: set[int] = set()
        leases = await self.outbox.lease(PARTITIONS_AT_ONCE, skipped=failed, include_postponed=include_postponed)
        work = [self.post_partitions(lease, failed, include_postponed=include_postponed) for lease in leases]
        errors = [error for error in await asyncio.gather(*work, return_exceptions=True) if error is not None]
        if errors:
            raise errors[0]
        return not failed

    async def post_partitions(self, lease: Lease, failed: set[int], *, include_postponed: bool) -> None:
        """Posts from a partition, then from the next one that is due, until there is none."""
        leases = [lease]
        while leases and not self.stopping:
            if not await self.post_partition(leases[0]):
                failed.add(leases[0].partition)
            leases = await self.outbox.lease(1, skipped=failed, include_postponed=include_postponed)

    async def post_partition(self, lease: Lease) -> bool:
        """Posts the pending changes of a partition, then releases it. False when the sink did not take the next one."""
        while not self.stopping and (changes := await self.outbox.read(lease, BATCH_CHANGES)):
            attempt = Attempt(changes, self.handled.pop(lease.partition, set()))
            self.drop_expired(attempt)
            await self.post_batch(attempt, lease)
            self.drop_refused(attempt, lease)
            passed = attempt.passed
            self.handled[lease.partition] = attempt.handled - {change.key for change in passed}
            if not passed and (attempt.failed or attempt.is_blocked):
                await self.postpone(attempt, lease)
                return False
            if not await self.outbox.move_cursor(lease, passed[-1].position if passed else lease.position):
                return True
        await self.outbox.release(lease)
        return True

    def drop_expired(self, attempt: Attempt) -> None:
        """Drops changes that are older than the retention."""
        limit = datetime.now(UTC) - EVENTS
        expired = {change.key for change in attempt.changes if change.changed_at < limit} - attempt.handled
        if expired:
            attempt.handled |= expired
            self.counts.add("expired", by=len(expired))
            log.error("events were dropped: they were pending for longer than 7 days", extra={"events": len(expired)})

    async def post_batch(self, attempt: Attempt, lease: Lease) -> None:
        """Posts a batch: several users at once, the changes of each user one after the other."""
        by_user: dict[UUID, list[PendingChange]] = {}
        for change in attempt.changes:
            if change.key not in attempt.handled:
                by_user.setdefault(change.user_id, []).append(change)
        await asyncio.gather(*(self.post_user_changes(changes, attempt, lease) for changes in by_user.values()))

    async def post_user_changes(self, changes: Sequence[PendingChange], attempt: Attempt, lease: Lease) -> None:
        """Posts one user's changes until one is refused, the sink fails, or the lease could end."""
        for change in changes:
            async with self.posting:
                if attempt.failed or self.stopping or monotonic() + POST_SECONDS >= lease.deadline:
                    return
                outcome, reason = await self.sink.post(change)
            self.counts.add(outcome.value)
            if outcome is DeliveryOutcome.PUBLISHED:
                attempt.handled.add(change.key)
                continue
            attempt.reason = reason
            if outcome is DeliveryOutcome.REFUSED:
                attempt.refused.add(change.key)
            else:
                attempt.failed = True
            return

    def drop_refused(self, attempt: Attempt, lease: Lease) -> None:
        """Drops the change that the cursor can't pass after MAX_REFUSALS refusals."""
        change = attempt.first_unhandled
        if change is None or not attempt.is_blocked or lease.refusals + 1 < MAX_REFUSALS:
            return
        attempt.handled.add(change.key)
        self.counts.add("dropped")
        log.error(
            "an event was dropped: the sink refuses it",
            extra={"event": change.attributes["id"], "status": attempt.reason, "attempts": MAX_REFUSALS},
        )

    async def postpone(self, attempt: Attempt, lease: Lease) -> None:
        delay = min(MAX_RETRY_SECONDS, MIN_RETRY_SECONDS * 2.0 ** min(lease.failures, 10))
        seconds = delay * uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing
        log.warning(
            "the sink does not take events; trying again",
            extra={"partition": lease.partition, "reason": attempt.reason, "retry_seconds": round(seconds, 1)},
        )
        await self.outbox.postpone(lease, seconds=seconds, refused=attempt.is_blocked)
