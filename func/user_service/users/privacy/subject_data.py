"""Where a person shows beside their own row: in the change log, as an actor, and in answers that are kept."""

import secrets
from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.idempotency.stored_responses import ANSWERS, REPLIES, DataSubject, ResponseTable, StoredResponses
from user_service.users.model import User

# Callers choose the ids of their requests, and a name may be among them. Traces are random numbers, and stay.
FORGET_REQUESTS: Final = text("UPDATE user_changes SET request_id = '' WHERE user_id = :user_id AND request_id <> ''")
# The condition on `jwt:` is that of the index.
OWN_CHANGES: Final = "actor = ANY(CAST(:names AS text[])) AND actor LIKE 'jwt:%'"
RENAME: Final = (
    text(f"UPDATE user_changes SET actor = :alias WHERE {OWN_CHANGES}"),  # noqa: S608
    text("UPDATE imports SET actor = :alias WHERE actor = ANY(CAST(:names AS text[]))"),
)
COUNT_CHANGES: Final = text(f"SELECT count(*) FROM user_changes WHERE {OWN_CHANGES}")  # noqa: S608
IMPORTS: Final = text("SELECT id, started_at FROM imports WHERE actor = ANY(CAST(:names AS text[])) ORDER BY id")
SHOWN: Final = {ANSWERS.table: "created_at, expires_at", REPLIES.table: "source, id, processed_at"}


class SubjectData:
    """What is left of people besides their rows, in the transaction of `session`."""

    def __init__(self, session: AsyncSession, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.index = index
        self.kept = StoredResponses(session, cipher, index)

    async def erase(self, user: User, names: Collection[str]) -> None:
        """Takes a person out of everything that is kept. `names` are those that the audit trail has for them.

        What they have changed stays theirs under an alias: one and the same, but nobody knows who.
        """
        await self.take_out(user)
        await self.session.execute(FORGET_REQUESTS, {"user_id": user.id})
        if names:
            values = {"alias": f"erased:{secrets.token_hex(8)}", "names": list(names)}
            for statement in RENAME:
                await self.session.execute(statement, values)

    async def take_out(self, user: User) -> None:
        """Takes a person out of the answers that are kept for repetitions."""
        await self.kept.take_out(self.person(user))

    def person(self, user: User) -> DataSubject:
        return DataSubject(user.id, self.index.email(user.email) if user.email else None, user.external_id)

    async def answers(self, shelf: ResponseTable, person: DataSubject) -> list[dict[str, Any]]:
        """When and where answers are kept that speak of a person."""
        keys = [key async for key in self.kept.of(shelf, person)]
        given = {name: [key[place] for key in keys] for place, name in enumerate(shelf.key)}
        statement = text(
            f"SELECT {SHOWN[shelf.table]} FROM {shelf.table} JOIN {shelf.given_keys} USING ({shelf.keys})"  # noqa: S608
            f" ORDER BY {shelf.keys}"
        )
        return [dict(row) for row in (await self.session.execute(statement, given)).mappings()]

    async def acts(self, names: Collection[str]) -> Mapping[str, Any]:
        """What a person did under these names: how many changes, and which imports."""
        values = {"names": list(names)}
        changes = (await self.session.execute(COUNT_CHANGES, values)).scalar_one()
        imports = (await self.session.execute(IMPORTS, values)).mappings()
        return {
            "names": values["names"],
            "changes": changes,
            "imports": [{**row, "id": str(row["id"])} for row in imports],
        }
