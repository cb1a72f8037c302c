"""All that is stored of one person, as one JSON document."""

from collections.abc import AsyncIterator, Callable, Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from user_service.idempotency.stored_responses import ANSWERS, REPLIES, DataSubject
from user_service.users.audit import AuditTrail
from user_service.users.model import JSON_OPTIONS, User
from user_service.users.privacy.subject_data import SubjectData
from user_service.users.repository import UserRepository


class PersonalExport:
    """Reads what is stored of people, in the transaction of a repository."""

    def __init__(self, repository: UserRepository) -> None:
        self.repository = repository
        self.trail = AuditTrail(repository.session)
        self.traces = SubjectData(repository.session, repository.cipher, repository.index)

    async def pieces(self, user_id: UUID, *, names_of: Callable[[User], Collection[str]]) -> AsyncIterator[bytes]:
        """The document, piece by piece: the user (null once purged), the audit trail, and where else the person shows.

        `names_of` gives the names that the person has in the audit trail. Raises UserNotFound before the first piece.
        """
        user = (await self.repository.read([user_id])).get(user_id)
        if user is None:
            await self.trail.require_known(user_id)
        stored = json(await self.stored(user_id, user, names_of))
        begun = b'{"exported_at":' + json(datetime.now(UTC)) + b',"user":' + (user.to_json() if user else b"null")
        yield begun + b',"stored":' + stored + b',"changes":['
        separator = b""
        async for changes in self.trail.whole(user_id):
            yield separator + b",".join(map(json, changes))
            separator = b","
        yield b"]}"

    async def stored(
        self, user_id: UUID, user: User | None, names_of: Callable[[User], Collection[str]]
    ) -> dict[str, Any]:
        """What is kept besides the user's fields and changes."""
        person = self.traces.person(user) if user is not None else DataSubject(user_id)
        return {
            "prior_status": user.prior_status if user is not None else None,
            "blind_indexes": {
                "email": bool(user is not None and user.email),
                "search_terms": len(self.repository.terms_of(user)) if user is not None else 0,
            },
            "idempotency_answers": await self.traces.answers(ANSWERS, person),
            "event_replies": await self.traces.answers(REPLIES, person),
            "as_actor": await self.traces.acts(names_of(user) if user is not None else ()),
        }


def json(value: object) -> bytes:
    return orjson.dumps(value, option=JSON_OPTIONS)
