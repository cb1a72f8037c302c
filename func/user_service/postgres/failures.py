"""Failures of PostgreSQL: which of them a retry may cure, and what they say."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from user_service.errors import DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres.pooler import LOST, UNTRACKED, explain_refusal

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
URL_REFUSED: Final = "DATABASE_URL is not a URL that a PostgreSQL client understands."
CERTIFICATE_REMEDY: Final = "Check the server's certificate, and sslmode and sslrootcert in DATABASE_URL."


def is_transient(error: BaseException | None) -> bool:
    """Whether a retry may succeed. It can't when asyncpg rejected an argument, which is a ValueError too.

    So is a certificate that does not verify, and that may be replaced while the service runs.
    """
    return isinstance(error, TRANSIENT) and (isinstance(error, ssl.SSLError) or not isinstance(error, ValueError))


def describe_failure(error: BaseException | None) -> str:
    """What a failure to connect means, with its remedy; no value of the URL except the path of a certificate."""
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
    return DatabaseUnavailable.title


@asynccontextmanager
async def translate_errors(metrics: Metrics) -> AsyncIterator[None]:
    """Turns a transient failure into DatabaseUnavailable (503) and counts it."""
    try:
        yield
    except TRANSIENT as error:
        if not is_transient(error):
            raise
        raise translate_failure(error, metrics) from error


def translate_failure(error: BaseException, metrics: Metrics) -> DatabaseUnavailable:
    """Counts a transient failure; the error that tells the caller, and names a certificate that does not verify."""
    metrics.database_errors.add(type(error).__name__)
    cause = error.__cause__ if isinstance(error, ConnectionError) and error.__cause__ is not None else error
    return DatabaseUnavailable(describe_failure(cause))
