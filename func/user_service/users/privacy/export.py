"""All that is stored about one user, as one JSON document."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from user_service.idempotency.stored_responses import IDEMPOTENCY_KEYS, INBOX
from user_service.users.audit import AuditTrail
from user_service.users.identifiers import held
from user_service.users.model import JSON_OPTIONS, User
from user_service.users.privacy.subject_data import ActorNames, DataSubjects, SubjectData
from user_service.users.repository import UserRepository


class PersonalExport:
    """Reads what is stored about users, in the transaction of a repository."""

    def __init__(self, repository: UserRepository) -> None:
        self.repository = repository
        self.trail = AuditTrail(repository.session)
        self.subject_data = SubjectData(repository.session, repository.index)

    async def pieces(self, user_id: UUID, *, actor_names: ActorNames) -> AsyncGenerator[bytes]:
        """The document, piece by piece: the user (null once purged), what else is stored, and the audit trail.

        `actor_names` returns the names of the user in the audit trail. Raises UserNotFound before the first piece.
        """
        user = (await self.repository.read([user_id])).get(user_id)
        if user is None:
            await self.trail.require_known(user_id)
        stored = to_json(await self.stored(user_id, user, actor_names))
        start = b'{"exported_at":' + to_json(datetime.now(UTC)) + b',"user":' + (user.to_json() if user else b"null")
        yield start + b',"stored":' + stored + b',"changes":['
        separator = b""
        async for changes in self.trail.whole(user_id):
            yield separator + b",".join(map(to_json, changes))
            separator = b","
        yield b"]}"

    async def stored(self, user_id: UUID, user: User | None, actor_names: ActorNames) -> dict[str, Any]:
        """What is stored besides the user's fields and changes."""
        index = self.repository.index
        subjects = DataSubjects.from_users([user], index) if user is not None else DataSubjects([user_id])
        return {
            "prior_status": user.prior_status if user is not None else None,
            "scim": user.scim if user is not None else {},
            "blind_indexes": {
                "email": bool(user is not None and user.email),
                "identifiers": len(held(user, index)) if user is not None else 0,
                "search_terms": len(self.repository.search_terms(user)) if user is not None else 0,
            },
            "idempotency_answers": await self.subject_data.list_responses(IDEMPOTENCY_KEYS, subjects),
            "event_replies": await self.subject_data.list_responses(INBOX, subjects),
            "exports": await self.subject_data.list_exports(user_id),
            "as_actor": await self.subject_data.actions(actor_names(user) if user is not None else ()),
        }


def to_json(value: object) -> bytes:
    return orjson.dumps(value, option=JSON_OPTIONS)
