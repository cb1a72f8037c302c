"""A database of a Citus cluster, for tests that are marked `distributed`. They run one after the other."""

import asyncio
import os
from typing import Final

import asyncpg

from user_service.postgres.migrations import current, downgrade, upgrade
from user_service.postgres.migrations.distribute import distribute

CITUS_DATABASE_URL: Final = os.environ.get("CITUS_DATABASE_URL", "")
NO_CITUS: Final = "CITUS_DATABASE_URL names no coordinator of a Citus cluster"
EMPTY: Final = """
TRUNCATE users, user_terms, user_changes, identifiers;
TRUNCATE feed, feed_queue, outbox, inbox, idempotency_keys, import_failures, imports, service_meta;
UPDATE feed_state
SET position = 0, floor = 0, floor_id = '00000000-0000-0000-0000-000000000000', has_sets = true;
UPDATE outbox_partitions SET owner = NULL, leased_until = NULL, retry_at = NULL, failures = 0;
"""


class CitusDatabase:
    """The database of CITUS_DATABASE_URL, made anew: migrated and distributed."""

    def __init__(self, url: str) -> None:
        assert "PYTEST_XDIST_WORKER" not in os.environ, "tests on Citus share a database: run them with -n 0"
        self.url = url
        self.migrate()
        assert self.distribute()

    def migrate(self) -> None:
        """Makes all tables anew, on the coordinator."""
        if current(self.url) is not None:
            downgrade(self.url, "base")
        upgrade(self.url)

    def distribute(self) -> bool:
        """Whether the tables were not distributed before."""
        return asyncio.run(distribute(self.url))

    def empty(self) -> None:
        """Removes all rows that a test has left."""
        asyncio.run(self.execute(EMPTY))

    async def execute(self, statements: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            for statement in filter(str.strip, statements.split(";")):
                await connection.execute(statement)
        finally:
            await connection.close()
