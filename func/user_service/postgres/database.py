"""Transactions over one pool of connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from user_service.errors import Contended, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.observability.tracing import Traced, untraced
from user_service.postgres.connections import HELD_OPEN, Connections, PoolStats
from user_service.postgres.connector import Connection, Connector
from user_service.postgres.distribution import Distribution, is_deadlock
from user_service.postgres.failures import TRANSIENT, URL_SETTING, is_transient, translate_failure
from user_service.postgres.session import Session

ROLLBACK_SECONDS: Final = 1.0
BEGIN: Final = "BEGIN"
BEGIN_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"
# Deadlocks and serialization failures: class 40 of the SQL standard.
ROLLED_BACK: Final = (asyncpg.TransactionRollbackError,)


class Database:
    """Sessions on up to `size` connections of a connector. A caller waits for one for `seconds` at most.

    `setting` names the URL of the server in errors.
    """

    def __init__(
        self,
        connector: Connector,
        metrics: Metrics,
        *,
        size: int,
        seconds: float,
        traced: Traced = untraced,
        setting: str = URL_SETTING,
    ) -> None:
        self.connector = connector
        self.metrics = metrics
        self.connections = Connections(connector, size=size)
        self.distribution = Distribution()
        self.seconds = seconds
        self.traced = traced
        self.setting = setting

    @asynccontextmanager
    async def session(self, begin: str | None = None) -> AsyncIterator[Session]:
        """Statements on one connection, in a transaction where `begin` starts one. It commits when the block ends.

        Raises DatabaseUnavailable, and Contended when PostgreSQL rolled it back in favour of another one: run it again.
        """
        try:
            connection = await self.acquire()
            try:
                if begin is not None:
                    await connection.execute(begin)
                yield Session(connection, traced=self.traced, distribution=self.distribution)
                if begin is not None and await connection.execute("COMMIT") != "COMMIT":
                    raise RuntimeError("the transaction had failed and was rolled back")
            except BaseException as error:
                await abandon(connection, error)
                raise
            finally:
                self.connections.release(connection)
        except (*TRANSIENT, asyncpg.InternalServerError) as error:
            if not is_transient(error):
                raise
            self.connector.note_failure(error)
            unavailable = translate_failure(error, self.metrics, setting=self.setting)
            is_contended = isinstance(error, ROLLED_BACK) or is_deadlock(error)
            raise (Contended() if is_contended else unavailable) from error

    async def is_distributed(self) -> bool:
        """Whether the users are distributed over several servers. Raises DatabaseUnavailable."""
        if self.distribution.known is None:
            async with self.session() as session:
                return await session.is_distributed()
        return self.distribution.known

    async def acquire(self) -> Connection:
        """A connection. Raises the error of opening one, and DatabaseUnavailable while all are in use."""
        try:
            return await self.connections.acquire(seconds=self.seconds)
        except TimeoutError as error:
            if error is self.connections.error:
                raise
            self.metrics.database_errors.add("pool_timeout")
            raise DatabaseUnavailable("All database connections are in use.") from error

    async def fill(self) -> None:
        """Opens a few connections ahead of the first session. Raises DatabaseUnavailable."""
        try:
            await self.connections.fill(HELD_OPEN, seconds=self.seconds)
        except TRANSIENT as error:
            raise translate_failure(error, self.metrics, setting=self.setting) from error

    @property
    def stats(self) -> PoolStats:
        """How much of the pool is in use now."""
        return self.connections.stats

    async def close(self) -> None:
        """Waits for running transactions, but not for a server that does not respond."""
        await self.connections.close(seconds=self.seconds)


async def abandon(connection: Connection, error: BaseException) -> None:
    """Ends a failed transaction. A connection that does not answer is closed, which ends it too."""
    if connection.is_closed():
        return
    if not connection.is_in_transaction():
        if isinstance(error, TimeoutError | asyncio.CancelledError):
            # A statement is under way, which the server is asked to cancel.
            await connection.close()
        return
    try:
        async with asyncio.timeout(ROLLBACK_SECONDS):
            await connection.execute("ROLLBACK")
    except Exception:
        connection.terminate()
    except BaseException:
        connection.terminate()
        raise
