"""Distributes the tables of a migrated database over the servers of a Citus cluster."""

from typing import Final

from asyncpg import Connection

from user_service.errors import CommandFailed
from user_service.postgres.connector import connect_once
from user_service.postgres.distribution import DATABASE_SETTINGS, DISTRIBUTE, DISTRIBUTED, HAS_CITUS, Distribution
from user_service.postgres.migrations import CONNECT_SECONDS, LIFT_TIMEOUTS

NO_CITUS: Final = (
    "The database has no extension citus. Run `CREATE EXTENSION citus` in it on each server, and "
    "`SELECT citus_add_node(HOST, PORT)` for each worker on the coordinator; docs/scaling.md has the steps."
)
NO_WORKERS: Final = "No server of the cluster takes shards: add one by `SELECT citus_add_node(HOST, PORT)`."
WORKERS: Final = "SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards AND noderole = 'primary'"


async def distribute(url: str) -> bool:
    """Distributes the tables with their rows, all or none; False where they are distributed already.

    Writes wait meanwhile. Raises CommandFailed.
    """
    connection = await connect_once({"dsn": url, "timeout": CONNECT_SECONDS})
    try:
        if not await connection.fetch(HAS_CITUS):
            raise CommandFailed(NO_CITUS)
        if await Distribution().is_distributed(connection.fetch):
            return False
        if not await connection.fetchval(WORKERS):
            raise CommandFailed(NO_WORKERS)
        async with connection.transaction():
            await distribute_tables(connection)
    finally:
        await connection.close()
    return True


async def distribute_tables(connection: Connection) -> None:
    for statement in LIFT_TIMEOUTS:
        await connection.execute(statement)
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    for name, value in DATABASE_SETTINGS:
        await connection.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    for statement in DISTRIBUTE:
        await connection.execute(statement)
    for table in DISTRIBUTED:
        # The rows that were copied to the shards.
        await connection.execute(f"SELECT truncate_local_data_after_distributing_table('{table}')")
