"""SQLAlchemy engines over the connections of a connector."""

import asyncio
from time import monotonic
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import await_only

from user_service.postgres.connections import HELD_OPEN, MAX_AGE_SECONDS, RETRY_PAUSE_SECONDS
from user_service.postgres.connector import Connector
from user_service.postgres.failures import TRANSIENT, is_transient
from user_service.postgres.pool import PoolStats

# How long a caller waits at least while every connection of the pool is in use.
MIN_POOL_TIMEOUT_SECONDS: Final = 3.0


class NotFit(ConnectionError):
    """A pooled connection was expired, is dead, or its server has become read-only; it is closed."""


class EnginePool(AsyncAdaptedQueuePool):
    """A pool that counts the callers that wait for a connection, and that waits where none can be opened."""

    connector: Connector
    # How long a caller tries to open a connection, or waits for one that is given back instead.
    seconds: float
    waiting = 0

    def connect(self) -> PoolProxiedConnection:
        self.waiting += 1
        deadline = monotonic() + self.seconds
        try:
            while True:
                try:
                    return super().connect()
                except NotFit:
                    # Another one is used or opened at once. SQLAlchemy's own repetition gives up after two.
                    if monotonic() > deadline:
                        raise
                    continue
                except (*TRANSIENT, self.dialect_error) as error:
                    if monotonic() > deadline or not self.may_try_again(error):
                        raise
                await_only(asyncio.sleep(RETRY_PAUSE_SECONDS))
        finally:
            self.waiting -= 1

    @property
    def dialect_error(self) -> type[Exception]:
        """The class of the driver's errors as the dialect translates them; their cause is the driver's own."""
        error: type[Exception] = self._dialect.loaded_dbapi.Error  # type: ignore[attr-defined]
        return error

    def may_try_again(self, error: BaseException) -> bool:
        """Whether a connection may be opened or given back soon."""
        cause = error if isinstance(error, TRANSIENT) else error.__cause__
        return is_transient(cause) and (self.checkedout() > 0 or not self.connector.breaker.is_open)

    @property
    def stats(self) -> PoolStats:
        """How much of the pool is in use."""
        return PoolStats(self.size(), self.checkedin() + self.checkedout(), self.checkedout(), self.waiting)


def open_engine(connector: Connector, *, size: int, seconds: float) -> AsyncEngine:
    """An engine whose pool opens up to `size` connections on demand. A caller tries to open one for `seconds`."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connector.connect,
        poolclass=EnginePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=max(seconds, MIN_POOL_TIMEOUT_SECONDS),
        pool_recycle=MAX_AGE_SECONDS,
        pool_use_lifo=True,
        hide_parameters=True,
    )
    assert isinstance(engine.pool, EnginePool)
    engine.pool.connector = connector
    engine.pool.seconds = seconds

    def check_connection(adapted: Any, record: Any, proxy: Any) -> None:
        """Replaces a connection that was expired, that is dead, or whose server has become read-only."""
        connection = adapted.driver_connection
        if not connector.is_current(connection) or (
            connector.is_due(connection) and not adapted.run_async(connector.check)
        ):
            raise NotFit

    event.listen(engine.sync_engine, "checkout", check_connection)
    return engine


async def fill_pool(engine: AsyncEngine) -> None:
    """Opens a few connections. Raises what opening one raises."""
    assert isinstance(engine.pool, EnginePool)
    connections = [engine.connect() for _ in range(min(HELD_OPEN, engine.pool.size()))]
    results = await asyncio.gather(*(connection.start() for connection in connections), return_exceptions=True)
    for result in results:
        if isinstance(result, AsyncConnection):
            await result.close()
    for result in results:
        if isinstance(result, BaseException):
            raise result
