"""Sessions that keep a migration from a lock."""

from typing import Final

from user_service.postgres.connector import connect_once

# Sessions with a lock on a table of this database, the longest transaction first. Not their statements: those may hold
# personal data.
SELECT_HOLDERS: Final = """
SELECT activity.pid, activity.usename, activity.application_name, activity.state,
       extract(epoch FROM clock_timestamp() - activity.xact_start)::int,
       string_agg(DISTINCT locks.relation::regclass::text, ', ')
FROM pg_locks AS locks
JOIN pg_class ON pg_class.oid = locks.relation AND pg_class.relkind IN ('r', 'p')
JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
WHERE locks.granted AND locks.pid <> pg_backend_pid() AND pg_class.relnamespace = current_schema()::regnamespace
  AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
GROUP BY 1, 2, 3, 4, activity.xact_start
ORDER BY activity.xact_start
LIMIT 3
"""


async def describe_holders(url: str, *, seconds: float) -> str:
    """The sessions that hold locks on this schema's tables, in words; that they are unknown where there are none."""
    connection = await connect_once({"dsn": url, "timeout": seconds})
    try:
        rows = await connection.fetch(SELECT_HOLDERS)
    finally:
        await connection.close()
    sessions = [
        f"process {pid} (user {user}, application {application or 'unnamed'}, {state}, in a transaction for {age} s) "
        f"on {tables}"
        for pid, user, application, state, age, tables in rows
    ]
    return "; ".join(sessions) or "a session that has ended since"
