"""The relay: posts what waits in the outbox to the sink, after commits, at least once and in order for each user.

docs/adr/0006-outbox-relay.md tells why it works this way, docs/events.md what a sink can rely on.
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
from user_service.events.sink import POST_SECONDS, POSTS_AT_ONCE, Outcome, Sink
from user_service.events.types import PendingChange
from user_service.observability.logging import log
from user_service.observability.metrics import Metrics
from user_service.postgres.retention import EVENTS

BATCH: Final = 100
LANES_AT_ONCE: Final = 4
QUICK_POLL_SECONDS: Final = 0.1
POLL_SECONDS: Final = 5.0
FIRST_RETRY_SECONDS: Final = 0.5
LAST_RETRY_SECONDS: Final = 60.0
# About half a minute of attempts at an event that the sink refuses; then it is left out, so that others get through.
REFUSALS: Final = 6

Key = tuple[UUID, int]


class Attempt:
    """One go at a batch: which of its changes are dealt with, which the sink refused, and whether it failed."""

    def __init__(self, changes: Sequence[PendingChange], done: set[Key]) -> None:
        self.changes = changes
        self.done = done & {key_of(change) for change in changes}
        self.refused: set[Key] = set()
        self.failed = False
        self.reason = ""

    @property
    def front(self) -> PendingChange | None:
        """The first change that is not dealt with; the cursor can't pass it."""
        return next((change for change in self.changes if key_of(change) not in self.done), None)

    @property
    def passed(self) -> list[PendingChange]:
        """What the cursor can pass."""
        return list(takewhile(lambda change: key_of(change) in self.done, self.changes))

    @property
    def front_refused(self) -> bool:
        return self.front is not None and key_of(self.front) in self.refused


class Relay:
    """One replica's share of the work."""

    def __init__(self, outbox: Outbox, sink: Sink, metrics: Metrics, *, poll_seconds: float = POLL_SECONDS) -> None:
        self.outbox = outbox
        self.sink = sink
        self.counts = metrics.events_published
        self.poll_seconds = poll_seconds
        self.woken = asyncio.Event()
        self.stopping = False
        self.posting = asyncio.Semaphore(POSTS_AT_ONCE)
        # What was posted behind a change that the sink did not take: not to be posted again at the next attempt.
        self.done: dict[int, set[Key]] = {}
        self.task: asyncio.Task[None] | None = None
        self.draining = asyncio.Lock()
        # A drain that did not come to its end may have left leases behind, which nobody could take for a while.
        self.cut_off = False

    def wake(self) -> None:
        """Something was committed."""
        self.woken.set()

    def start(self) -> None:
        self.task = asyncio.create_task(self.run())

    async def stop(self, *, grace_seconds: float = 1.0) -> None:
        """Lets posts under way end, for a moment, and gives the lanes to whoever goes on."""
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
        """Relays until it is stopped: at once after a commit, else at lengthening intervals."""
        pause = QUICK_POLL_SECONDS
        while not self.stopping:
            self.woken.clear()
            try:
                await self.drain()
            except DatabaseUnavailable:
                pause = self.poll_seconds
            except Exception:
                log.exception("the relay met an unexpected error")
                pause = self.poll_seconds
            pause = await self.rest(pause)

    async def rest(self, pause: float) -> float:
        """Waits for a commit or for `pause` seconds; gives the next pause.

        After a commit come quick polls, since a change becomes pending only when older transactions have ended.
        """
        try:
            async with asyncio.timeout(pause):
                await self.woken.wait()
        except TimeoutError:
            return min(2 * pause, self.poll_seconds)
        return min(QUICK_POLL_SECONDS, self.poll_seconds)

    async def drain(self, *, patient: bool = True) -> bool:
        """Posts until nothing is due. False when the sink failed. Raises DatabaseUnavailable."""
        async with self.draining:
            if self.cut_off:
                await self.outbox.release_all()
            self.cut_off = True
            fine = await self.serve_due(patient=patient)
            self.cut_off = False
        return fine

    async def serve_due(self, *, patient: bool) -> bool:
        failed: set[int] = set()
        leases = await self.outbox.lease(LANES_AT_ONCE, skipped=failed, patient=patient)
        work = [self.serve_lanes(lease, failed, patient=patient) for lease in leases]
        errors = [error for error in await asyncio.gather(*work, return_exceptions=True) if error is not None]
        if errors:
            raise errors[0]
        return not failed

    async def serve_lanes(self, lease: Lease, failed: set[int], *, patient: bool) -> None:
        """Serves a lane, then the next that is due, until there is none."""
        leases = [lease]
        while leases and not self.stopping:
            if not await self.serve_lane(leases[0]):
                failed.add(leases[0].lane)
            leases = await self.outbox.lease(1, skipped=failed, patient=patient)

    async def serve_lane(self, lease: Lease) -> bool:
        """Posts what is pending in a lane, then gives it back. False when the sink did not take the next one."""
        while not self.stopping and (changes := await self.outbox.read(lease, BATCH)):
            attempt = Attempt(changes, self.done.pop(lease.lane, set()))
            self.expire(attempt)
            await self.post_all(attempt, lease)
            self.give_up_refused(attempt, lease)
            passed = attempt.passed
            self.done[lease.lane] = attempt.done - {key_of(change) for change in passed}
            if not passed and (attempt.failed or attempt.front_refused):
                await self.postpone(attempt, lease)
                return False
            if not await self.outbox.advance(lease, passed[-1].place if passed else lease.place):
                return True
        await self.outbox.release(lease)
        return True

    def expire(self, attempt: Attempt) -> None:
        """Passes over what is older than the retention."""
        limit = datetime.now(UTC) - EVENTS
        expired = {key_of(change) for change in attempt.changes if change.changed_at < limit} - attempt.done
        if expired:
            attempt.done |= expired
            self.counts.add("expired", by=len(expired))
            log.error("events were dropped: they waited for longer than 7 days", extra={"events": len(expired)})

    async def post_all(self, attempt: Attempt, lease: Lease) -> None:
        """Posts a batch: users side by side, the changes of each user one after the other."""
        chains: dict[UUID, list[PendingChange]] = {}
        for change in attempt.changes:
            if key_of(change) not in attempt.done:
                chains.setdefault(change.user_id, []).append(change)
        await asyncio.gather(*(self.post_chain(chain, attempt, lease) for chain in chains.values()))

    async def post_chain(self, chain: Sequence[PendingChange], attempt: Attempt, lease: Lease) -> None:
        """Posts one user's changes until one is not taken, the sink fails, or the lease could run out."""
        for change in chain:
            async with self.posting:
                if attempt.failed or self.stopping or monotonic() + POST_SECONDS >= lease.deadline:
                    return
                outcome, reason = await self.sink.post(change)
            self.counts.add(outcome.value)
            if outcome is Outcome.PUBLISHED:
                attempt.done.add(key_of(change))
                continue
            attempt.reason = reason
            if outcome is Outcome.REFUSED:
                attempt.refused.add(key_of(change))
            else:
                attempt.failed = True
            return

    def give_up_refused(self, attempt: Attempt, lease: Lease) -> None:
        """Passes over the change in front when the sink has refused it often enough."""
        front = attempt.front
        if front is None or not attempt.front_refused or lease.refusals + 1 < REFUSALS:
            return
        attempt.done.add(key_of(front))
        self.counts.add("dropped")
        log.error(
            "an event was dropped: the sink refuses it",
            extra={"event": front.attributes["id"], "status": attempt.reason, "attempts": REFUSALS},
        )

    async def postpone(self, attempt: Attempt, lease: Lease) -> None:
        delay = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(lease.failures, 10))
        seconds = delay * uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing
        log.warning(
            "the sink does not take events; trying again",
            extra={"lane": lease.lane, "reason": attempt.reason, "retry_seconds": round(seconds, 1)},
        )
        await self.outbox.postpone(lease, seconds=seconds, refused=attempt.front_refused)


def key_of(change: PendingChange) -> Key:
    return change.user_id, change.version
