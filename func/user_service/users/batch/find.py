"""Find: many users by their keys. What is cached is sent as it is; one statement reads the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.errors import PayloadTooLarge
from user_service.users.batch.bodies import MAX_ITEMS, FindBatch
from user_service.users.batch.results import BatchResponse
from user_service.users.privacy.mentions import index_email, mention_keys
from user_service.users.reader import UserReader
from user_service.values.ids import parse_id

NUL: Final = "\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindResponse(BatchResponse):
    """The response, the ids of the users in it, and the keys that matched no user."""

    found_ids: Sequence[UUID]
    missing_emails: Sequence[str]
    missing_external_ids: Sequence[str]

    def mentions(self, index: BlindIndex) -> list[UUID]:
        """The users and keys that the response names."""
        return [*self.found_ids, *mention_keys((), self.missing_emails, self.missing_external_ids, index)]


async def find(body: FindBatch, reader: UserReader, index: BlindIndex, *, fresh: bool) -> FindResponse:
    """The users of the keys, each once, in the order of the keys: ids, e-mails, external ids.

    Raises PayloadTooLarge, DatabaseUnavailable, and DecryptionError for a user whose encryption key is gone.
    """
    if body.size > MAX_ITEMS:
        raise PayloadTooLarge(
            f"A batch has {MAX_ITEMS:,} keys at most; this one has {body.size:,}. Send several batches."
        )
    ids = [parse_id(text) for text in body.ids]
    email_indexes = [index_email(text, index) for text in body.emails]
    external_ids = [None if NUL in text else text for text in body.external_ids]
    found = await reader.find(
        dict.fromkeys(key for key in ids if key is not None),
        {key for key in email_indexes if key is not None},
        {key for key in external_ids if key is not None},
        fresh=fresh,
    )
    user_ids: list[tuple[Sequence[str], Sequence[UUID | None]]] = [
        (body.ids, ids),
        (body.emails, [found.by_email_index.get(key or b"") for key in email_indexes]),
        (body.external_ids, [found.by_external_id.get(key or "") for key in external_ids]),
    ]
    documents: dict[UUID, bytes] = {}
    missing: list[list[str]] = []
    for keys, matches in user_ids:
        unmatched = []
        for key, user_id in zip(keys, matches, strict=True):
            entry = found.entries.get(user_id) if user_id is not None else None
            if isinstance(entry, Exception):
                raise entry
            if entry is None or user_id is None or entry.deleted:
                unmatched.append(key)
            else:
                documents[user_id] = entry.body
        missing.append(unmatched)
    missing_ids, missing_emails, missing_external_ids = missing
    rest = orjson.dumps({"ids": missing_ids, "emails": missing_emails, "external_ids": missing_external_ids})
    return FindResponse(
        200,
        b'{"found":[' + b",".join(documents.values()) + b'],"missing":' + rest + b"}",
        found_ids=list(documents),
        missing_emails=missing_emails,
        missing_external_ids=missing_external_ids,
    )
