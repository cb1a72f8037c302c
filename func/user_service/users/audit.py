"""The audit trail of one user: the change log, read by its primary key."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import UUID

from user_service.errors import UserNotFound
from user_service.postgres.session import Session
from user_service.postgres.statements import text

TRAIL_COLUMNS: Final = (
    "event_id AS id, version, type, status, changed, actor, request_id, traceparent, changed_at, reason"
)
TRAIL_ROWS: Final = 1000

PAGE: Final = text(
    f"SELECT {TRAIL_COLUMNS} FROM user_changes WHERE user_id = :user_id AND version > :after"  # noqa: S608
    " ORDER BY version LIMIT :limit"
)
ALL: Final = text(
    f"SELECT {TRAIL_COLUMNS} FROM user_changes WHERE user_id = :user_id AND version > 0 ORDER BY version"  # noqa: S608
)
IS_KNOWN: Final = text(
    "SELECT EXISTS (SELECT FROM users WHERE id = :user_id)"
    " OR EXISTS (SELECT FROM user_changes WHERE user_id = :user_id)"
)

ChangeDocument = dict[str, Any]


class AuditTrail:
    """The changes of users, deleted, erased and purged ones too, for as long as the change log is kept."""

    def __init__(self, session: Session) -> None:
        self.session = session

    async def page(self, user_id: UUID, *, after: int = 0, limit: int) -> tuple[list[ChangeDocument], int | None]:
        """Changes after a version, and the version after which the next page starts. Raises UserNotFound."""
        values = {"user_id": user_id, "after": after, "limit": limit + 1}
        rows = await self.session.execute(PAGE, values)
        if not rows:
            await self.require_known(user_id)
        found = [change_document(row) for row in rows[:limit]]
        return found, found[-1]["version"] if len(rows) > limit else None

    async def whole(self, user_id: UUID) -> AsyncIterator[list[ChangeDocument]]:
        """All changes, a thousand at a time, by a server-side cursor."""
        async for some in self.session.stream(ALL, {"user_id": user_id}, size=TRAIL_ROWS):
            yield [change_document(row) for row in some]

    async def require_known(self, user_id: UUID) -> None:
        """Raises UserNotFound when there is neither a user nor a change of this id."""
        if not (await self.session.execute(IS_KNOWN, {"user_id": user_id})).scalar_one():
            raise UserNotFound


def change_document(row: Mapping[Any, Any]) -> ChangeDocument:
    """A change in a response; `id` is that of its event. An erasure has cleared `request_id`, which callers choose."""
    return {**row, "id": str(row["id"]), "request_id": row["request_id"] or None}
