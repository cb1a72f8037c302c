"""Poolers, such as PgBouncer, between the service and PostgreSQL.

A pooler in transaction mode gives each transaction of a connection another session. So statements that were prepared in
one session must be known in the others, which PgBouncer provides from 1.21 on; and a session's settings must come from
its role, because a pooler does not pass them on.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import asyncpg

from user_service.errors import ConfigurationError

Connect = Callable[[], Awaitable[Any]]

REMEDY: Final = "see docs/connections.md#pgbouncer"
UNTRACKED: Final = (
    "DATABASE_URL names a pooler in transaction mode that does not keep prepared statements: use PgBouncer 1.21 or "
    f"later with max_prepared_statements = 200, or pool_mode = session; {REMEDY}."
)
BACKEND: Final = "SELECT pg_backend_pid()"
# The statement is another one, or none, in the session that a transaction has reached.
LOST: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
# PgBouncer gives each prepared statement a name of its own.
FIND_RENAMED: Final = "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE name LIKE 'PGBOUNCER%')"
FIND_LOST: Final = """
SELECT w.name FROM unnest($1::text[], $2::text[]) AS w (name, wanted) JOIN pg_settings s USING (name)
WHERE CASE s.unit WHEN 'ms' THEN s.setting::numeric <> extract(epoch FROM w.wanted::interval) * 1000
  ELSE s.setting <> w.wanted END
"""
UNSUPPORTED: Final = "unsupported startup parameter"


def is_behind_pooler(connection: Any, backend: int) -> bool:
    """Whether a connection does not end at the session with the process id `backend`."""
    return bool(connection.get_server_pid() != backend)


def explain_refusal(error: BaseException | None) -> str | None:
    """The remedy for a pooler that refuses the settings of a connection; None for another error."""
    if not isinstance(error, asyncpg.PostgresError) or UNSUPPORTED not in str(error):
        return None
    return f"The pooler refuses the settings of a session ({error}): set ignore_startup_parameters; {REMEDY}."


async def check_pooler(connect: Connect) -> None:
    """Raises ConfigurationError when transactions may reach sessions that lack a prepared statement.

    Opens two connections: while one is in a transaction in a session, no other connection may have used that session.
    """
    first = await connect()
    try:
        backend = await first.fetchval(BACKEND)
        if not is_behind_pooler(first, backend) or await keeps_statements(first):
            return
        second = await connect()
        try:
            async with second.transaction():
                shared = await second.fetchval(BACKEND) == backend
        finally:
            await second.close()
    except LOST as error:
        raise ConfigurationError(UNTRACKED) from error
    finally:
        await first.close()
    if shared:
        raise ConfigurationError(UNTRACKED)


async def keeps_statements(connection: Any) -> bool:
    """Whether the pooler keeps prepared statements, so that it can prepare them again in another session."""
    async with connection.transaction():
        await connection.prepare(BACKEND)
        return bool(await connection.fetchval(FIND_RENAMED))


async def find_lost_settings(connect: Connect, wanted: Mapping[str, str]) -> list[str]:
    """The names of the settings of a session that differ from those that its connection asked for."""
    connection = await connect()
    try:
        rows = await connection.fetch(FIND_LOST, list(wanted), list(wanted.values()))
        return [row["name"] for row in rows]
    finally:
        await connection.close()


def role_settings(lost: Sequence[str], wanted: Mapping[str, str]) -> str:
    """The remedy for lost settings."""
    settings = ", ".join(f"{name} = {wanted[name]}" for name in lost)
    return f"the pooler does not pass on {settings}: set them with ALTER ROLE; {REMEDY}"
