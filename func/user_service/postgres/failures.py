"""Failures of PostgreSQL: which of them a retry may cure, and what they say."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from user_service.errors import DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres.distribution import is_deadlock
from user_service.postgres.pooler import LOST, UNTRACKED, explain_refusal

# The server is unavailable, stopping, starting, full, read-only after a failover, too slow or not migrated, or it ended
# a deadlock: a retry may succeed.
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
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    # A disk of the server that fails.
    asyncpg.PostgresSystemError,
    # A migration, a restore or a GRANT cures these while the service runs.
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InsufficientPrivilegeError,
    *LOST,
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
URL_SETTING: Final = "DATABASE_URL"
URL_REFUSED: Final = "DATABASE_URL is not a URL that a PostgreSQL client understands."
CERTIFICATE_REMEDY: Final = "Check the server's certificate, and sslmode and sslrootcert in DATABASE_URL."
NOT_MIGRATED: Final = "The database is not migrated yet; run `user-service migrate`."
REMEDIES: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (asyncpg.CannotConnectNowError, "PostgreSQL is starting, recovering or stopping."),
    (
        asyncpg.TooManyConnectionsError,
        "PostgreSQL has no free connection: raise max_connections, or lower POSTGRES_MAX_CONNECTIONS.",
    ),
    (asyncpg.InvalidAuthorizationSpecificationError, "PostgreSQL refuses the user or password of DATABASE_URL."),
    (asyncpg.InvalidCatalogNameError, "PostgreSQL does not have the database that DATABASE_URL names."),
    (
        asyncpg.TargetServerAttributeNotMatched,
        "No host of DATABASE_URL is of the wanted kind: the primary, or what target_session_attrs says.",
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "PostgreSQL takes no writes: the server is a standby, or default_transaction_read_only is on.",
    ),
    (asyncpg.DiskFullError, "The disk of PostgreSQL is full."),
    (asyncpg.UndefinedTableError, NOT_MIGRATED),
    (asyncpg.UndefinedColumnError, NOT_MIGRATED),
    (
        asyncpg.InsufficientPrivilegeError,
        "The role of DATABASE_URL may not use the tables: make it the owner of the database and the tables.",
    ),
)


class ExplainedFailure(ConnectionError):
    """A failure to connect whose message names the fault and its remedy."""


def is_transient(error: BaseException | None) -> bool:
    """Whether a retry may succeed. It can't when asyncpg rejected an argument, which is a ValueError too.

    So is a certificate that does not verify, and that may be replaced while the service runs.
    """
    if isinstance(error, asyncpg.InternalServerError):
        return is_deadlock(error)
    return isinstance(error, TRANSIENT) and (isinstance(error, ssl.SSLError) or not isinstance(error, ValueError))


def describe_failure(error: BaseException | None) -> str:
    """What a failure to connect means, with its remedy; no value of the URL except the path of a certificate."""
    if isinstance(error, ExplainedFailure):
        return str(error)
    if isinstance(error, LOST):
        return UNTRACKED
    if (refusal := explain_refusal(error)) is not None:
        return refusal
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate of PostgreSQL is not valid: {error.verify_message}. {CERTIFICATE_REMEDY}"
    if isinstance(error, ssl.SSLError):
        return f"TLS with PostgreSQL fails ({error.reason or type(error).__name__}). {CERTIFICATE_REMEDY}"
    if isinstance(error, asyncpg.ClientConfigurationError) and "certificate" in str(error):
        return f"DATABASE_URL: {error}"
    if isinstance(error, ValueError | OverflowError):
        return URL_REFUSED
    return next((text for kind, text in REMEDIES if isinstance(error, kind)), DatabaseUnavailable.title)


@asynccontextmanager
async def translate_errors(metrics: Metrics) -> AsyncIterator[None]:
    """Turns a transient failure into DatabaseUnavailable (503) and counts it."""
    try:
        yield
    except TRANSIENT as error:
        if not is_transient(error):
            raise
        raise translate_failure(error, metrics) from error


def translate_failure(error: BaseException, metrics: Metrics, *, setting: str = URL_SETTING) -> DatabaseUnavailable:
    """Counts a transient failure; the error that tells the caller. `setting` has the URL of the server."""
    metrics.database_errors.add(type(error).__name__)
    cause = error.__cause__ if isinstance(error, ConnectionError) and error.__cause__ is not None else error
    return DatabaseUnavailable(describe_failure(cause).replace(URL_SETTING, setting))
