"""What is stored about a user outside of the user's row: as an actor in the audit trail, and in stored responses."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from user_service.encryption.blind_index import BlindIndex
from user_service.idempotency.stored_responses import IDEMPOTENCY_KEYS, INBOX, ResponseTable, RowKey
from user_service.postgres.session import Session
from user_service.postgres.statements import text
from user_service.users.identifiers import identifier_hashes
from user_service.users.model import User

# The names that a user has in the audit trail.
ActorNames = Callable[[User], Collection[str]]

BY_ACTOR: Final = "actor = ANY(CAST(:names AS text[]))"
COUNT_CHANGES: Final = text(f"SELECT count(*) FROM user_changes WHERE {BY_ACTOR}")  # noqa: S608
EXPORTS: Final = text(
    "SELECT actor, request_id, traceparent, changed_at AS exported_at, reason FROM user_changes"
    " WHERE user_id = :user_id AND version < 0 ORDER BY changed_at"
)
IMPORTS_BY_ACTOR: Final = text(f"SELECT id, started_at FROM imports WHERE {BY_ACTOR} ORDER BY id")  # noqa: S608
RESPONSE_COLUMNS: Final = {IDEMPOTENCY_KEYS.table: "created_at, expires_at", INBOX.table: "source, id, processed_at"}


@dataclass(frozen=True, slots=True)
class DataSubjects:
    """Users as stored responses may name them: by their ids, and by the keyed hashes of their identifiers, while the
    rows have them.
    """

    ids: Sequence[UUID]
    hashes: Sequence[UUID] = ()

    @classmethod
    def from_users(cls, users: Sequence[User], index: BlindIndex) -> Self:
        ids = [user.id for user in users]
        return cls(ids, [UUID(bytes=value) for user in users for value in identifier_hashes(user, index)])


class SubjectData:
    """Finds what is stored about users outside of their rows, in the transaction of `session`."""

    def __init__(self, session: Session, index: BlindIndex) -> None:
        self.session = session
        self.index = index

    async def response_keys(self, responses: ResponseTable, subjects: DataSubjects) -> list[RowKey]:
        """The keys of the stored responses that are about some of the users, in order."""
        keys = responses.key_columns
        statement = text(
            "WITH traces AS MATERIALIZED (SELECT traceparent FROM user_changes"  # noqa: S608
            " WHERE user_id = ANY(CAST(:ids AS uuid[])))"
            f" SELECT {keys} FROM {responses.table} JOIN traces USING (traceparent)"
            f" UNION SELECT {keys} FROM {responses.table} WHERE mentions && CAST(:mentions AS uuid[]) ORDER BY {keys}"
        )
        values = {"ids": subjects.ids, "mentions": [*subjects.ids, *subjects.hashes]}
        return [tuple(row) for row in await self.session.execute(statement, values)]

    async def list_responses(self, responses: ResponseTable, subjects: DataSubjects) -> list[dict[str, Any]]:
        """When and under which name the responses about users are stored."""
        keys = await self.response_keys(responses, subjects)
        arrays = {name: [key[place] for key in keys] for place, name in enumerate(responses.key)}
        statement = text(
            f"SELECT {RESPONSE_COLUMNS[responses.table]} FROM {responses.table}"  # noqa: S608
            f" JOIN {responses.key_rows} USING ({responses.key_columns}) ORDER BY {responses.key_columns}"
        )
        return [dict(row) for row in await self.session.execute(statement, arrays)]

    async def list_exports(self, user_id: UUID) -> list[dict[str, Any]]:
        """The reads of the user's export: actor and time."""
        rows = await self.session.execute(EXPORTS, {"user_id": user_id})
        return [{**row, "request_id": row["request_id"] or None} for row in rows]

    async def actions(self, actor_names: Collection[str]) -> Mapping[str, Any]:
        """What was done under these names in the audit trail: the number of changes, and the imports."""
        values = {"names": list(actor_names)}
        changes = (await self.session.execute(COUNT_CHANGES, values)).scalar_one()
        imports = await self.session.execute(IMPORTS_BY_ACTOR, values)
        return {
            "names": values["names"],
            "changes": changes,
            "imports": [{**row, "id": str(row["id"])} for row in imports],
        }
