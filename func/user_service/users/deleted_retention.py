"""Purges users that were deleted longer ago than they are kept, each with a change and an event of its own."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text

from user_service.observability.trace_context import choose_request_id, continue_trace
from user_service.users.change_log import Origin
from user_service.users.service import UserService
from user_service.users.unit_of_work import UserDatabase

ACTOR: Final = "retention"
PURGED_AT_ONCE: Final = 100
# By the index of statuses other than active.
EXPIRED: Final = text(
    "SELECT id, now() - CAST(:days AS integer) * interval '1 day' AS before FROM users"
    " WHERE status = 'deleted' AND id > :after AND deleted_at < now() - CAST(:days AS integer) * interval '1 day'"
    " ORDER BY id LIMIT :limit"
)


async def purge_deleted(database: UserDatabase, *, days: int) -> int:
    """Purges users that were deleted, or erased, more than `days` ago; returns their number.

    100 at a time in a transaction, beside the service and other purges. Raises DatabaseUnavailable, Contended.
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
        async with database.unit_of_work(origin) as users:
            total += await purge_if_deleted(users, [row["id"] for row in rows], before=rows[0]["before"])


async def purge_if_deleted(users: UserService, user_ids: Sequence[UUID], *, before: datetime) -> int:
    """Purges those that have been deleted since before a time, and not restored meanwhile; returns their number."""
    locked = (await users.repository.lock(user_ids)).values()
    purged = [user for user in locked if user.deleted_at is not None and user.deleted_at < before]
    await users.purge_locked(purged)
    return len(purged)
