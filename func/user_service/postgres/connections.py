"""A pool of asyncpg connections.

asyncpg's own pool ties a request to one place of the pool: a place whose connection can't be opened fails the request,
although connections of other places are free. Here a request takes whichever comes first: a connection that another
request gives back, or a new one.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Final, NamedTuple

from user_service.postgres.connector import Connection, Connector
from user_service.postgres.failures import is_transient
from user_service.values.time_limits import TimeLimit

RETRY_PAUSE_SECONDS: Final = 0.1
# How long the end waits for attempts to open a connection.
ATTEMPT_GRACE_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 300.0
MAX_AGE_SECONDS: Final = 1800.0
# Open before the service is ready, and not closed when they are idle: a request that meets a server or a resolver that
# takes no new connection uses these.
HELD_OPEN: Final = 2


class PoolStats(NamedTuple):
    """Connections of a pool: the maximum, the open ones, those in use, and the callers that wait for one."""

    limit: int
    opened: int
    active: int
    waiting: int


def sum_pools(pools: Iterable[PoolStats]) -> PoolStats:
    return PoolStats(*map(sum, zip(*pools, strict=True)))


class Connections:
    """Up to `size` connections of a connector. A connection is checked before its use when the last check is old."""

    def __init__(self, connector: Connector, *, size: int) -> None:
        self.connector = connector
        self.size = size
        # Existing connections, idle or in use.
        self.opened = 0
        # The one that was used last is at the end, and is used next.
        self.idle: list[Connection] = []
        self.waiters: deque[asyncio.Future[Connection]] = deque()
        self.opening: set[asyncio.Task[None]] = set()
        # Attempts to connect that have not ended.
        self.attempts = 0
        # Why no connection could be opened, until one is.
        self.error: Exception | None = None
        self.closing = False
        # Set when the last connection is closed; None before `close`.
        self.emptied: asyncio.Event | None = None

    @property
    def active(self) -> int:
        return self.opened - len(self.idle)

    @property
    def stats(self) -> PoolStats:
        """How much of the pool is in use now."""
        return PoolStats(self.size, self.opened, self.active, len(self.waiters))

    async def acquire(self, *, seconds: float) -> Connection:
        """A connection, to be given back with `release`. Waits for `seconds` at most.

        Raises the error of opening one, or TimeoutError.
        """
        connection = self.pop_idle()
        if connection is not None and not self.connector.is_due(connection):
            return connection
        try:
            with TimeLimit(seconds):
                while True:
                    if connection is None:
                        connection = await self.wait()
                    if not self.connector.is_due(connection) or await self.check(connection):
                        return connection
                    connection = self.pop_idle()
        except TimeoutError:
            if self.error is None:
                raise
        raise self.error

    async def check(self, connection: Connection) -> bool:
        """Whether the connection may be used; it is gone if not."""
        try:
            is_fit = await self.connector.check(connection)
        except BaseException:
            self.discard(connection)
            raise
        if not is_fit:
            self.discard(connection)
            # What has silenced it, such as a firewall, has silenced those that were idle for as long: a request does
            # not wait for each of them.
            self.discard_due()
        return is_fit

    def release(self, connection: Connection) -> None:
        """Gives a connection back, to the request that has waited longest if there is one."""
        now = connection.idle_since = monotonic()
        is_old = now - connection.opened_at > MAX_AGE_SECONDS
        if self.closing or is_old or not self.connector.is_current(connection):
            self.discard(connection)
            return
        self.give(connection)
        if self.opened > HELD_OPEN and self.idle and now - self.idle[0].idle_since > IDLE_SECONDS:
            self.discard(self.idle.pop(0))

    def pop_idle(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if self.connector.is_current(connection):
                return connection
            self.discard(connection)
        return None

    async def wait(self) -> Connection:
        """The next connection that is given back or opened."""
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        self.open_more()
        try:
            return await waiter
        except asyncio.CancelledError:
            # It may have been given a connection in the same moment.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())
            raise
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def give(self, connection: Connection) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self.idle.append(connection)

    def discard(self, connection: Connection) -> None:
        """Closes a connection that is neither idle nor in use any more; another is opened where one is waited for."""
        connection.terminate()
        self.opened -= 1
        if self.opened == 0 and self.emptied is not None:
            self.emptied.set()
        self.open_more()

    def discard_idle(self) -> None:
        idle, self.idle = self.idle, []
        for connection in idle:
            self.discard(connection)

    def discard_due(self) -> None:
        """Closes the idle connections whose last check is old."""
        due = [connection for connection in self.idle if self.connector.is_due(connection)]
        self.idle = [connection for connection in self.idle if connection not in due]
        for connection in due:
            self.discard(connection)

    def open_more(self) -> None:
        """Begins to open a connection for each request that waits, within the size of the pool.

        The first one is opened alone: of several at once, a server with one place left may refuse all.
        """
        wanted = min(len(self.waiters), self.size - self.opened) if self.opened else min(len(self.waiters), 1)
        while len(self.opening) < wanted and not self.closing:
            task = asyncio.create_task(self.open_one())
            self.opening.add(task)
            task.add_done_callback(self.finish_opening)

    def finish_opening(self, task: asyncio.Task[None]) -> None:
        self.opening.discard(task)
        # The requests behind the first one have waited for it; and a connection may have expired while it was opened.
        self.open_more()

    async def open_one(self) -> None:
        """Opens a connection, and tries again while a request waits.

        The requests that wait fail when trying again is pointless: the URI is wrong, or there is no connection at all
        and the circuit breaker is open.
        """
        while self.waiters and not self.closing:
            self.attempts += 1
            try:
                connection = await self.connector.connect()
            except Exception as error:
                self.error = error
                is_hopeless = self.opened == 0 and self.attempts == 1 and self.connector.breaker.is_open
                if is_hopeless or not is_transient(error):
                    self.fail_waiters(error)
                    return
            else:
                self.opened += 1
                self.error = None
                self.release(connection)
                return
            finally:
                self.attempts -= 1
            await asyncio.sleep(RETRY_PAUSE_SECONDS)

    def fail_waiters(self, error: Exception) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    async def fill(self, number: int, *, seconds: float) -> None:
        """Opens connections until `number` of them, or the pool's size, are there. Raises the error of opening one."""
        number = min(number, self.size)
        results = await asyncio.gather(*(self.acquire(seconds=seconds) for _ in range(number)), return_exceptions=True)
        for result in results:
            if isinstance(result, Connection):
                self.release(result)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def close(self, *, seconds: float) -> None:
        """Closes every connection. Those in use have `seconds` to be given back."""
        self.closing = True
        if self.opening:
            # An attempt that is cancelled in the middle may leave an error in asyncpg that nothing retrieves.
            await asyncio.wait(list(self.opening), timeout=ATTEMPT_GRACE_SECONDS)
        for task in self.opening:
            task.cancel()
        self.discard_idle()
        if self.opened:
            self.emptied = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.emptied.wait()
