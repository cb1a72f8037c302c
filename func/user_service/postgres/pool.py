"""Connections to PostgreSQL, and what its failures mean. Everything that connects does it through `connect_options`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg

from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.observability.tracing import Traced, untraced
from user_service.settings import Settings

CONNECT_TIMEOUT_SECONDS: Final = 3.0
LOCK_TIMEOUT_SECONDS: Final = 3.0
# Every query walks an index for a few rows. A page from somewhere costs about what the next one costs on the storage of
# today, and a walk along a rare word with a look into a common one's postings is better than a walk along both, which
# the planner prefers where it takes the rare word for less rare than it is.
PLANNER: Final = {
    "jit": "off",
    "random_page_cost": "1.1",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
}

# The server is away, stopping, starting, full, read-only after a failover, or too slow, or it ended a deadlock: a later
# try may succeed.
TRANSIENT: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What asyncpg says of a connection that the server has ended while it was idle.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    asyncpg.TransactionRollbackError,
)
# A connection that turns out to be dead; a read can be asked again on another one.
DEAD: Final = (
    ConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


def read_seconds(settings: Settings) -> int:
    """How long a look-up may take, from asking for a connection to the last row."""
    return settings.database_timeout + 1


class PoolStats(NamedTuple):
    """Connections of a pool: how many it may open, has open, has lent out, and how many callers ask for one."""

    limit: int
    opened: int
    active: int
    waiting: int


def connect_options(settings: Settings, *, url: str | None = None) -> dict[str, Any]:
    """The arguments of every connection. Timeouts are the server's own: a lost client leaves nothing running."""
    return {
        "dsn": url or settings.database_url,
        "timeout": CONNECT_TIMEOUT_SECONDS,
        "command_timeout": read_seconds(settings),
        "server_settings": {
            "application_name": "user-service",
            "statement_timeout": f"{settings.database_timeout}s",
            "lock_timeout": f"{LOCK_TIMEOUT_SECONDS:g}s",
            "idle_in_transaction_session_timeout": "30s",
            "timezone": "UTC",
            **PLANNER,
        },
    }


@asynccontextmanager
async def translated(metrics: Metrics) -> AsyncIterator[None]:
    """Turns a transient failure into DatabaseUnavailable (503) and counts it."""
    try:
        yield
    except TRANSIENT as error:
        if is_lasting(error):
            raise
        metrics.database_errors.add(type(error).__name__)
        raise DatabaseUnavailable from error


def is_lasting(error: BaseException) -> bool:
    """Whether asyncpg refuses a value of ours, which no later try mends."""
    return isinstance(error, ValueError)


async def keep_session(connection: Any) -> None:
    """Nothing to reset: the reads of the pool leave no state in their session."""


class ReadPool:
    """A small asyncpg pool for look-ups. It opens on first use, and again after the database has been away."""

    def __init__(self, settings: Settings, metrics: Metrics, *, size: int, traced: Traced = untraced) -> None:
        self.settings = settings
        self.traced = traced
        self.metrics = metrics
        self.size = size
        self.seconds = read_seconds(settings)
        self.pool: Any = None
        self.waiting = 0
        self.opening = asyncio.Lock()

    async def open(self) -> Any:
        """The pool. Raises DatabaseUnavailable, and ConfigurationError for a URL that makes no sense."""
        if self.pool is None:
            async with self.opening, translated(self.metrics):
                if self.pool is None:
                    options = connect_options(self.settings)
                    try:
                        self.pool = await asyncpg.create_pool(
                            min_size=1, max_size=self.size, reset=keep_session, **options
                        )
                    except (ValueError, OverflowError):
                        raise ConfigurationError(
                            "DATABASE_URL is not a URL that a PostgreSQL client understands."
                        ) from None
        return self.pool

    def adopt(self, settings: Settings) -> None:
        """Opens connections by these settings from here on; those that are open stay."""
        self.settings = settings
        if self.pool is not None:
            self.pool.set_connect_args(**connect_options(settings))

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """The rows of a statement that reads, or that may run twice. Raises DatabaseUnavailable."""
        pool = self.pool or await self.open()
        async with translated(self.metrics), asyncio.timeout(self.seconds):
            try:
                return await self.fetch_once(pool, statement, arguments)
            except DEAD:
                await pool.expire_connections()
                return await self.fetch_once(pool, statement, arguments)

    async def fetch_once(self, pool: Any, statement: str, arguments: Sequence[object]) -> Sequence[Any]:
        connection = await self.acquire(pool)
        try:
            with self.traced(statement):
                rows: Sequence[Any] = await connection.fetch(statement, *arguments)
                return rows
        except (TimeoutError, asyncio.CancelledError):
            # A request to cancel would wait for the same server; its own timeout ends the statement.
            connection.terminate()
            raise
        finally:
            await pool.release(connection)

    async def acquire(self, pool: Any) -> Any:
        self.waiting += 1
        try:
            return await pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS)
        finally:
            self.waiting -= 1

    @property
    def use(self) -> PoolStats:
        """How much of the pool is in use now."""
        if self.pool is None:
            return PoolStats(self.size, 0, 0, self.waiting)
        opened = self.pool.get_size()
        return PoolStats(self.size, opened, opened - self.pool.get_idle_size(), self.waiting)

    async def close(self) -> None:
        """Waits for what is under way, but not for a server that has stopped answering."""
        if self.pool is None:
            return
        try:
            async with asyncio.timeout(self.seconds):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()
