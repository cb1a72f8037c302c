"""The pool of connections for reads. Every connection to PostgreSQL is opened with `connect_options`."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from user_service.observability.metrics import Metrics
from user_service.observability.tracing import Traced, untraced
from user_service.postgres.connections import HELD_OPEN, Connections, PoolStats
from user_service.postgres.connector import HOST_SECONDS, Connector, connect_once
from user_service.postgres.distribution import Distribution
from user_service.postgres.failures import DEAD, translate_errors
from user_service.postgres.pooler import BACKEND, check_pooler, find_lost_settings, is_behind_pooler
from user_service.settings import Settings

LOCK_TIMEOUT_SECONDS: Final = 3.0
# Every query reads a few rows through an index. A plan that was made while a table was empty, and scans it, would stay
# until the table is analysed, however large it is by then, such as the outbox during an import. On current storage a
# random page costs about as much as a sequential one. A plan that merges would read whole indexes later on; searches,
# whose plans are not kept, may merge: see session.PLAN_FOR_VALUES.
PLANNER: Final = {
    "jit": "off",
    "random_page_cost": "1.1",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "max_parallel_workers_per_gather": "0",
}


def read_seconds(settings: Settings) -> int:
    """Maximum duration of a read, from the request for a connection to the last row."""
    return settings.database_timeout + 1


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
        "timeout": HOST_SECONDS,
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
        return await connect_once(options, writes=False)

    async with translate_errors(metrics):
        await check_pooler(connect)
        return await find_lost_settings(connect, options["server_settings"])


class ReadPool:
    """The connections for statements that read, or that may run twice. They are opened on first use."""

    def __init__(
        self, settings: Settings, metrics: Metrics, *, size: int, traced: Traced = untraced, writes: bool = True
    ) -> None:
        """`writes`: the server must take writes; see `Connector`."""
        self.settings = settings
        self.traced = traced
        self.metrics = metrics
        self.size = size
        self.seconds = read_seconds(settings)
        self.connector = Connector(lambda: connect_options(self.settings), metrics, writes=writes)
        self.connections = Connections(self.connector, size=size)
        self.distribution = Distribution()

    async def open(self) -> None:
        """Opens a few connections. Raises DatabaseUnavailable, and ConfigurationError for a malformed URL."""
        async with translate_errors(self.metrics):
            await self.connections.fill(HELD_OPEN, seconds=self.seconds)

    def apply_settings(self, settings: Settings) -> None:
        """Uses these settings for new connections. Where the user or password has changed, open ones are replaced."""
        has_changed = settings.database_url != self.settings.database_url
        self.settings = settings
        if has_changed:
            self.connector.expire()

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """The rows of a statement that reads, or that may run twice. Raises DatabaseUnavailable."""
        async with translate_errors(self.metrics), asyncio.timeout(self.seconds):
            try:
                return await self.fetch_once(statement, arguments)
            except DEAD:
                self.connections.discard_idle()
                return await self.fetch_once(statement, arguments)

    async def fetch_once(self, statement: str, arguments: Sequence[object]) -> Sequence[Any]:
        # A second less than the statement has, so that the error says why no connection could be opened.
        connection = await self.connections.acquire(seconds=self.seconds - 1)
        try:
            with self.traced(statement):
                rows: Sequence[Any] = await connection.fetch(statement, *arguments)
                return rows
        except (TimeoutError, asyncio.CancelledError):
            # A cancel request would wait for the same server; the server's own timeout ends the statement.
            connection.terminate()
            raise
        except asyncpg.ReadOnlySQLTransactionError as error:
            self.connector.note_failure(error)
            raise
        finally:
            self.connections.release(connection)

    async def is_distributed(self) -> bool:
        """Whether the users are distributed over several servers. Raises DatabaseUnavailable."""
        return await self.distribution.is_distributed(self.fetch)

    async def is_behind_pooler(self) -> bool:
        """Raises DatabaseUnavailable."""
        async with translate_errors(self.metrics):
            connection = await self.connections.acquire(seconds=self.seconds)
            try:
                return is_behind_pooler(connection, await connection.fetchval(BACKEND))
            finally:
                self.connections.release(connection)

    async def ping(self) -> None:
        """Returns when PostgreSQL answers; waits for a probe while the circuit breaker is open.

        Raises DatabaseUnavailable.
        """
        await self.connector.breaker.wait_until_closed()
        await self.fetch("SELECT 1")

    @property
    def stats(self) -> PoolStats:
        """The current use of the pool."""
        return self.connections.stats

    async def close(self) -> None:
        """Waits for running statements, but not for a server that does not respond."""
        await self.connections.close(seconds=self.seconds)
        await self.connector.close()
