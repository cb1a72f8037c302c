"""Tables distributed over the servers of a Citus cluster. docs/adr/0016-citus.md has the reasons.

1. Users are on the server that the hash of their id names, with their terms and their change log. Identifiers are
   distributed by their index. All other tables stay on the coordinator.
2. Citus locks the rows of one shard in one statement, so the rows of several are locked shard by shard, in the order of
   the shards' numbers. Within a shard they are locked in the order of ids.
3. Where one statement would join a table of the coordinator with the change log, there are two.
4. A transaction commits on the coordinator before it does on other servers, so a reader that finds a row of the
   coordinator without its change waits for the change.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg

Fetch = Callable[..., Awaitable[Sequence[Any]]]

# Citus has one transaction write in two places at once unless its statements go shard by shard; see the ADR.
DATABASE_SETTINGS: Final = (
    ("citus.enable_deadlock_prevention", "off"),
    ("citus.multi_shard_modify_mode", "sequential"),
    ("citus.override_table_visibility", "off"),
)
# Each table with its distribution column and the table whose rows are beside its own.
DISTRIBUTED: Final = {
    "users": ("id", "none"),
    "user_terms": ("user_id", "users"),
    "user_changes": ("user_id", "users"),
    "identifiers": ("index", "none"),
}
DISTRIBUTE: Final = tuple(
    f"SELECT create_distributed_table('{table}', '{column}', colocate_with => '{beside}')"
    for table, (column, beside) in DISTRIBUTED.items()
)
DUPLICATE: Final = "duplicate key value violates unique constraint"
DEADLOCK: Final = "deadlock detected"
HAS_CITUS: Final = "SELECT FROM pg_extension WHERE extname = 'citus'"
IS_DISTRIBUTED: Final = "SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass('users') AND partmethod = 'h'"
BY_SHARD: Final = """
SELECT array_agg(id ORDER BY id) FROM (
  SELECT id, get_shard_id_for_distribution_column('users', id) AS shard FROM unnest($1::uuid[]) AS id
) ids GROUP BY shard ORDER BY shard
"""


class Distribution:
    """What is known of the tables of one database. It is read once."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: bool | None = None

    async def is_distributed(self, fetch: Fetch) -> bool:
        """Whether the tables are distributed; `fetch` runs a statement."""
        if self.known is None:
            self.known = bool(await fetch(HAS_CITUS)) and bool(await fetch(IS_DISTRIBUTED))
        return self.known

    async def lockable(self, ids: Sequence[UUID], fetch: Fetch) -> list[list[UUID]]:
        """The ids of users in groups, each of which one statement can lock, in the order of all transactions."""
        if len(ids) < 2 or not await self.is_distributed(fetch):
            return [list(ids)] if ids else []
        return [group for (group,) in await fetch(BY_SHARD, list(ids))]


def is_unique_violation(error: BaseException) -> bool:
    """Whether a unique index has refused a row."""
    return isinstance(error, asyncpg.UniqueViolationError) or has_message(error, DUPLICATE)


def is_deadlock(error: BaseException) -> bool:
    """Whether a server has ended a deadlock."""
    return isinstance(error, asyncpg.DeadlockDetectedError) or has_message(error, DEADLOCK)


def has_message(error: BaseException, message: str) -> bool:
    """Whether this is an error of another server in a COPY, of which Citus passes on the message but not the code."""
    return isinstance(error, asyncpg.InternalServerError) and message in str(error)
