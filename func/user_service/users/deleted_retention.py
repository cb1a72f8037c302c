"""Purges users that were deleted longer ago than they are kept, each with a change and an event of its own."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from user_service.observability.trace_context import choose_request_id, continue_trace
from user_service.postgres.statements import text
from user_service.users.change_log import Origin
from user_service.users.privacy.subject_data import ActorNames
from user_service.users.unit_of_work import UserDatabase, retry_contended

ACTOR: Final = "retention"
PURGED_AT_ONCE: Final = 100
# By the index of statuses other than active.
EXPIRED: Final = text(
    "SELECT id, now() - CAST(:days AS integer) * interval '1 day' AS before FROM users"
    " WHERE status = 'deleted' AND id > :after AND deleted_at < now() - CAST(:days AS integer) * interval '1 day'"
    " ORDER BY id LIMIT :limit"
)


async def purge_deleted(database: UserDatabase, *, days: int, actor_names: ActorNames) -> int:
    """Purges users that were deleted, or erased, more than `days` ago; returns their number.

    100 at a time in a transaction, beside the service and other purges. `actor_names` returns the names that a user has
    in the audit trail. Raises DatabaseUnavailable, Contended.
    """
    total, after = 0, UUID(int=0)
    while True:
        async with database.transaction() as session:
            values = {"days": days, "after": after, "limit": PURGED_AT_ONCE}
            rows = await session.execute(EXPIRED, values)
        if not rows:
            return total
        after = rows[-1]["id"]
        origin = Origin(ACTOR, choose_request_id(None).decode(), continue_trace(None).decode())
        user_ids = [row["id"] for row in rows]
        purge = partial(purge_if_deleted, database, origin, user_ids, rows[0]["before"], actor_names)
        total += await retry_contended(purge)


async def purge_if_deleted(
    database: UserDatabase, origin: Origin, user_ids: Sequence[UUID], before: datetime, actor_names: ActorNames
) -> int:
    """Purges those that have been deleted since before a time, and not restored meanwhile; returns their number."""
    async with database.unit_of_work(origin) as users:
        locked = (await users.repository.lock(user_ids)).values()
        purged = [user for user in locked if user.deleted_at is not None and user.deleted_at < before]
        await users.purge_locked(purged, actor_names)
    return len(purged)
