"""Alembic's environment: one asyncpg connection, one transaction, under an advisory lock."""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from user_service.postgres.connector import connect_once
from user_service.postgres.migrations import CONNECT_SECONDS, LIFT_TIMEOUTS, LOCK_SECONDS
from user_service.postgres.tables import metadata

MIGRATION_LOCK = 7_265_001


def migrate(connection: Connection) -> None:
    for statement in LIFT_TIMEOUTS:
        connection.execute(text(statement))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    # After the advisory lock: another migration may take longer than a table may be waited for.
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    context.configure(connection=connection, target_metadata=metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


async def run() -> None:
    url = context.config.attributes["url"]
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect_once({"dsn": url, "timeout": CONNECT_SECONDS}),
        poolclass=pool.NullPool,
    )
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(run())
