"""Opens the connections to one database, for every pool of the process.

A URI may list several hosts: each has its own time, and the host that answered last is tried first. After three
failures in a row no request waits for a new connection until a probe has opened one.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from user_service.errors import ConfigurationError
from user_service.observability.metrics import Metrics
from user_service.postgres.failures import TRANSIENT, URL_SETTING, ExplainedFailure, describe_failure, is_transient
from user_service.postgres.hosts import Host, split_hosts
from user_service.postgres.pooler import LOST, explain_refusal
from user_service.resilience.circuit_breaker import CircuitBreaker
from user_service.resilience.tls_files import find_unreadable_file

# Time to connect to a host, until its first answer to a query.
HOST_SECONDS: Final = 3.0
HOST_SECONDS_OF_SEVERAL: Final = 2.0
# How long a pooled connection is used before its server is asked again whether it takes writes. Reads that follow a
# planned switchover are stale for this long at most.
CHECK_SECONDS: Final = 3.0
CHECK_TIMEOUT_SECONDS: Final = 1.0
CANCEL_SECONDS: Final = 1.0
# A server that stays read-only makes every write fail; connections to it are not replaced more often than this.
EXPIRE_PAUSE_SECONDS: Final = 1.0
# Servers that are tried in this order: one that takes writes, then one that is read-only by a setting, such as a
# managed server whose disk is full. Never a standby, whose data may be old.
TAKES_WRITES: Final = ("read-write", "primary")
CHECK: Final = "SHOW transaction_read_only"
FILE_ERRORS: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class NotConnected(ConnectionError):
    """No connection was opened, because the last three attempts failed and no probe has succeeded since."""


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that knows which generation it belongs to, and when its server was last asked for its role."""

    __slots__ = ("checked_at", "generation", "idle_since", "opened_at")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.generation = 0
        self.opened_at = self.checked_at = self.idle_since = monotonic()

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's name
        """Tells the server, and does not wait for its answer: one that is silent would hold up a request or a stop.

        A request to cancel the statement, which asyncpg sends in a connection of its own, has a second to arrive.
        """
        try:
            if self._cancellations:
                await asyncio.wait(self._cancellations, timeout=CANCEL_SECONDS)
        finally:
            self.terminate()


class Connector:
    """Opens connections with the options of that moment.

    `writes`: the database must take writes. A connection to a standby is then refused, whatever the URI says of any
    server, and `check` finds servers that have become read-only. `expire` makes every pool replace the connections that
    were opened before.
    """

    def __init__(self, options: Callable[[], Mapping[str, Any]], metrics: Metrics, *, writes: bool = True) -> None:
        self.options = options
        self.metrics = metrics
        self.writes = writes
        self.generation = 0
        self.expired_at = -EXPIRE_PAUSE_SECONDS
        self.good_host: Host | None = None
        self.has_connected = False
        self.last_error: BaseException | None = None
        self.breaker = CircuitBreaker(
            "connections",
            server="PostgreSQL",
            probe=self.probe,
            probe_seconds=HOST_SECONDS,
            count_failure=lambda: metrics.database_errors.add("connect"),
        )

    async def connect(self) -> Connection:
        """A new connection. Raises a transient error, and ConfigurationError for a URI that has never been usable."""
        if self.breaker.is_open:
            raise NotConnected("PostgreSQL could not be reached a moment ago.") from self.last_error
        try:
            connection = await self.connect_to_any_host()
        except (*TRANSIENT, ValueError, OverflowError) as error:
            if not is_transient(error) or isinstance(error, LOST) or explain_refusal(error) is not None:
                refusal = self.refuse_url(error)
                self.last_error = refusal
                self.breaker.record_failure(refusal)
                raise refusal from None
            self.last_error = error
            self.breaker.record_failure(error)
            raise
        self.breaker.record_success()
        self.has_connected = True
        return connection

    async def connect_to_any_host(self) -> Connection:
        """A connection to the first host that is fit, the last good one first. Raises the error of the last one."""
        options = dict(self.options())
        last_error: BaseException = NotConnected("No host was tried.")
        is_other_kind = False
        for target in self.targets(options["dsn"]):
            for host in self.hosts(options["dsn"]):
                try:
                    return await self.connect_to(host, {**options, **target})
                except TRANSIENT as error:
                    if not is_transient(error) or isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
                        raise
                    last_error = error
                    is_other_kind |= isinstance(error, asyncpg.TargetServerAttributeNotMatched)
            # Only a server that answered, and is not of the wanted kind, may be of the next kind.
            if not is_other_kind:
                break
        raise last_error

    async def connect_to(self, host: Host | None, options: Mapping[str, Any]) -> Connection:
        generation = self.generation
        address = {"host": host[0], "port": host[1], "timeout": HOST_SECONDS_OF_SEVERAL} if host else {}
        try:
            connection: Connection = await asyncpg.connect(connection_class=Connection, **{**options, **address})
        except OSError as error:
            # The error of a file for TLS names no file, and looks like the one of a socket that is not there.
            if isinstance(error, FILE_ERRORS) and (fault := find_unreadable_file(options["dsn"], URL_SETTING)):
                raise ExplainedFailure(fault) from None
            raise
        connection.generation = generation
        self.good_host = host
        return connection

    def hosts(self, url: str) -> list[Host | None]:
        """The hosts to try, the last good one first; one None leaves a URI with one host to asyncpg."""
        hosts: list[Host | None] = [*split_hosts(url)] or [None]
        return sorted(hosts, key=lambda host: host != self.good_host)

    def targets(self, url: str) -> Iterator[dict[str, str]]:
        """The arguments for each round over the hosts: what the URI asks for, or else what the database is for."""
        wanted = parse_qs(urlsplit(url).query).get("target_session_attrs", [""])[-1]
        if wanted == "prefer-standby":
            yield {"target_session_attrs": "standby"}
            yield {"target_session_attrs": "any"}
        elif (wanted and wanted != "any") or not self.writes:
            yield {}
        else:
            yield from ({"target_session_attrs": kind} for kind in TAKES_WRITES)

    def refuse_url(self, error: BaseException) -> Exception:
        """What to raise for an unusable URI or file of certificates.

        It is fatal at first, and transient once the URI has worked. Without the replica the service can do its work.
        """
        text = describe_failure(error)
        return ExplainedFailure(text) if self.has_connected or not self.writes else ConfigurationError(text)

    async def probe(self) -> None:
        try:
            connection = await self.connect_to_any_host()
        except Exception as error:
            self.last_error = error
            raise
        connection.terminate()

    def is_current(self, connection: Connection) -> bool:
        """Whether the connection is open and was not expired."""
        return connection.generation == self.generation and not connection.is_closed()

    def is_due(self, connection: Connection) -> bool:
        """Whether the connection must be checked before it is used."""
        return monotonic() - connection.checked_at > CHECK_SECONDS

    async def check(self, connection: Connection) -> bool:
        """Whether the connection may be used: it answers, and its server takes writes if the database must.

        A server that has become read-only expires every connection.
        """
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                is_read_only = await connection.fetchval(CHECK) == "on"
        except TRANSIENT:
            connection.terminate()
            return False
        if is_read_only and self.writes:
            self.expire_read_only()
        connection.checked_at = monotonic()
        return self.is_current(connection)

    def expire(self) -> None:
        """Makes every pool replace its connections before their next use."""
        self.expired_at = monotonic()
        self.generation += 1

    def expire_read_only(self) -> None:
        """Expires the connections to a server that takes no writes, at most once a second."""
        if monotonic() - self.expired_at >= EXPIRE_PAUSE_SECONDS:
            self.expire()

    def note_failure(self, error: BaseException | None) -> None:
        """Expires every connection if a statement failed because the server is read-only (SQLSTATE 25006)."""
        if self.writes and isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            self.expire_read_only()

    async def close(self) -> None:
        await self.breaker.close()


async def connect_once(options: Mapping[str, Any], *, writes: bool = True) -> Connection:
    """A connection outside of any pool, to the host that is fit. Raises a transient error, or a ValueError."""
    return await Connector(lambda: options, Metrics(), writes=writes).connect_to_any_host()
