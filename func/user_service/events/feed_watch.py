"""The background task of the feed: positions for new changes, answers to readers that wait, and coming partitions."""

import asyncio
from contextlib import suppress
from time import monotonic
from typing import Final

import asyncpg

from user_service.errors import DatabaseUnavailable, Overloaded
from user_service.events.feed import Feed
from user_service.observability.logging import log
from user_service.postgres.partitions import create_partitions

# How often the feed is looked at while a reader waits, for the changes of other replicas.
POLL_SECONDS: Final = 0.1
# The pause after a round, in which changes gather; shorter while a reader waits.
PAUSE_SECONDS: Final = 0.25
SHORT_PAUSE_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 1.0
PARTITIONS_SECONDS: Final = 24 * 3600.0
PARTITIONS_RETRY_SECONDS: Final = 60.0
MAX_WAITERS: Final = 100


class FeedWatch:
    """One task of a process, however many readers wait; none of them holds a connection."""

    def __init__(self, feed: Feed, *, max_waiters: int = MAX_WAITERS) -> None:
        self.feed = feed
        self.max_waiters = max_waiters
        self.position = -1
        self.waiters = 0
        self.stopping = False
        self.woken = asyncio.Event()
        self.moved = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.partitions_due = 0.0

    def wake(self) -> None:
        """Gives positions soon, since a change was committed."""
        self.woken.set()

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self.run())

    def end_waits(self) -> None:
        """Lets the readers that wait be answered now: the server is stopping."""
        self.stopping = True
        self.moved.set()

    async def stop(self) -> None:
        self.end_waits()
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task

    async def wait_beyond(self, position: int, *, seconds: float) -> None:
        """Waits until the feed has a later position, for `seconds` at most. Raises Overloaded."""
        if self.waiters >= self.max_waiters:
            raise Overloaded(f"{self.max_waiters} readers of the feed wait on this replica already.")
        self.waiters += 1
        self.start()
        self.wake()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while self.position <= position and not self.stopping:
                        await self.moved.wait()
        finally:
            self.waiters -= 1

    async def wait_for_visibility(self, *, seconds: float) -> None:
        """Waits for a change that has a position and is not visible yet: until it is worth another look."""
        await self.wait_beyond(self.position, seconds=min(seconds, POLL_SECONDS))

    async def run(self) -> None:
        """Runs until it is cancelled: after each commit of this process, and at intervals while a reader waits."""
        while True:
            self.woken.clear()
            succeeded = False
            try:
                self.advance(await self.feed.sequence())
                succeeded = True
                await self.keep_partitions()
            except DatabaseUnavailable:
                pass
            except Exception:
                log.exception("unexpected error of the feed")
            await asyncio.sleep(SHORT_PAUSE_SECONDS if self.waiters else PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.next_seconds(succeeded=succeeded)):
                    await self.woken.wait()

    def next_seconds(self, *, succeeded: bool) -> float:
        """The seconds to the next round if no change is committed."""
        if self.waiters and succeeded:
            return POLL_SECONDS
        return max(0.0, self.partitions_due - monotonic()) if succeeded else RETRY_SECONDS

    def advance(self, position: int) -> None:
        if position != self.position:
            self.position = position
            self.moved.set()
            self.moved = asyncio.Event()

    async def keep_partitions(self) -> None:
        """Makes missing partitions at the start and once a day; after a failure it tries again in a minute."""
        if monotonic() < self.partitions_due:
            return
        self.partitions_due = monotonic() + PARTITIONS_RETRY_SECONDS
        try:
            await create_partitions(self.feed.pool.fetch)
        except DatabaseUnavailable as error:
            if not isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
                raise
            log.warning("partitions could not be made: this role does not own the tables; run `user-service migrate`")
        self.partitions_due = monotonic() + PARTITIONS_SECONDS
