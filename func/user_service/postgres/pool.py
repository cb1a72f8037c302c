"""Connections to PostgreSQL and their failures. Every connection is opened with `connect_options`."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg

from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.observability.tracing import Traced, untraced
from user_service.postgres.pooler import BACKEND, check_pooler, explain_refusal, find_lost_settings, is_behind_pooler
from user_service.settings import Settings

CONNECT_TIMEOUT_SECONDS: Final = 3.0
LOCK_TIMEOUT_SECONDS: Final = 3.0
# Every query reads a few rows through an index. On current storage a random page costs about as much as a sequential
# one. For a search of two words, a scan of the rare word's postings with look-ups in the common word's is faster than a
# merge of both, which the planner chooses if it overestimates the rare word.
PLANNER: Final = {
    "jit": "off",
    "random_page_cost": "1.1",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
}

# The server is unavailable, stopping, starting, full, read-only after a failover or too slow, or it ended a deadlock: a
# retry may succeed.
TRANSIENT: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # asyncpg's error for a connection that the server closed while it was idle.
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
# The connection is dead; a read can be repeated on another one.
DEAD: Final = (
    ConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


def read_seconds(settings: Settings) -> int:
    """Maximum duration of a read, from the request for a connection to the last row."""
    return settings.database_timeout + 1


class PoolStats(NamedTuple):
    """Connections of a pool: the maximum, the open ones, those in use, and the callers that wait for one."""

    limit: int
    opened: int
    active: int
    waiting: int


def sum_pools(pools: Iterable[PoolStats]) -> PoolStats:
    return PoolStats(*map(sum, zip(*pools, strict=True)))


def fast_path_share(settings: Settings) -> int:
    """The part of POSTGRES_MAX_CONNECTIONS that reads by id use."""
    return max(1, settings.postgres_max_connections // 4)


def replica_share(settings: Settings) -> int:
    """The part of POSTGRES_MAX_CONNECTIONS that goes to the read replica; 0 without one."""
    return fast_path_share(settings) if settings.database_read_url is not None else 0


def connect_options(settings: Settings, *, url: str | None = None) -> dict[str, Any]:
    """The arguments of every connection. The server enforces the timeouts, so a lost client leaves nothing running."""
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


async def check_session(settings: Settings, metrics: Metrics, *, url: str | None = None) -> list[str]:
    """The settings that a pooler keeps from the sessions; see `find_lost_settings`.

    Raises DatabaseUnavailable, and ConfigurationError for a pooler that can't be used.
    """
    options = connect_options(settings, url=url)

    async def connect() -> Any:
        return await asyncpg.connect(**options)

    async with translate_errors(metrics):
        await check_pooler(connect)
        return await find_lost_settings(connect, options["server_settings"])


@asynccontextmanager
async def translate_errors(metrics: Metrics) -> AsyncIterator[None]:
    """Turns a transient failure into DatabaseUnavailable (503) and counts it."""
    try:
        yield
    except TRANSIENT as error:
        if not is_transient(error):
            raise
        metrics.database_errors.add(type(error).__name__)
        raise DatabaseUnavailable from error


def is_transient(error: BaseException | None) -> bool:
    """Whether a retry may succeed. It can't when asyncpg rejected an argument, which is a ValueError too."""
    return isinstance(error, TRANSIENT) and not isinstance(error, ValueError)


async def skip_reset(connection: Any) -> None:
    """The statements of the pool leave no state in their session, so there is nothing to reset."""


class ReadPool:
    """A small asyncpg pool. It opens on first use, or with a later call if the database was unavailable."""

    def __init__(self, settings: Settings, metrics: Metrics, *, size: int, traced: Traced = untraced) -> None:
        self.settings = settings
        self.traced = traced
        self.metrics = metrics
        self.size = size
        self.seconds = read_seconds(settings)
        self.pool: Any = None
        self.waiting = 0
        self.open_lock = asyncio.Lock()

    async def open(self) -> Any:
        """The pool. Raises DatabaseUnavailable, and ConfigurationError for a malformed URL."""
        if self.pool is None:
            async with self.open_lock, translate_errors(self.metrics):
                if self.pool is None:
                    options = connect_options(self.settings)
                    try:
                        self.pool = await asyncpg.create_pool(
                            min_size=1, max_size=self.size, reset=skip_reset, **options
                        )
                    except asyncpg.ProtocolViolationError as error:
                        if (refusal := explain_refusal(error)) is not None:
                            raise ConfigurationError(refusal) from None
                        raise
                    except (ValueError, OverflowError):
                        raise ConfigurationError(
                            "DATABASE_URL is not a URL that a PostgreSQL client understands."
                        ) from None
        return self.pool

    def apply_settings(self, settings: Settings) -> None:
        """Uses these settings for new connections; open ones stay."""
        self.settings = settings
        if self.pool is not None:
            self.pool.set_connect_args(**connect_options(settings))

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """The rows of a statement that reads, or that may run twice. Raises DatabaseUnavailable."""
        pool = self.pool or await self.open()
        async with translate_errors(self.metrics), asyncio.timeout(self.seconds):
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
            # A cancel request would wait for the same server; the server's own timeout ends the statement.
            connection.terminate()
            raise
        finally:
            await pool.release(connection)

    async def is_behind_pooler(self) -> bool:
        """Raises DatabaseUnavailable."""
        pool = self.pool or await self.open()
        async with translate_errors(self.metrics), pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS) as connection:
            return is_behind_pooler(connection, await connection.fetchval(BACKEND))

    async def acquire(self, pool: Any) -> Any:
        self.waiting += 1
        try:
            return await pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS)
        finally:
            self.waiting -= 1

    @property
    def stats(self) -> PoolStats:
        """The current use of the pool."""
        if self.pool is None:
            return PoolStats(self.size, 0, 0, self.waiting)
        opened = self.pool.get_size()
        return PoolStats(self.size, opened, opened - self.pool.get_idle_size(), self.waiting)

    async def close(self) -> None:
        """Waits for running statements, but not for a server that does not respond."""
        if self.pool is None:
            return
        try:
            async with asyncio.timeout(self.seconds):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()
