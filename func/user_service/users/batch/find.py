"""Find: many users by their keys. What is cached is sent as it is; one statement reads the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME, BlindIndex, encode_text
from user_service.users.batch.bodies import FindBatch, check_size
from user_service.users.batch.results import BatchResponse
from user_service.users.privacy.mentions import index_email, index_username, mention_keys
from user_service.users.reader import UserReader
from user_service.values.ids import parse_id


@dataclass(frozen=True, slots=True, kw_only=True)
class FindResponse(BatchResponse):
    """The response, the ids of the users in it, and the keys that matched no user, by kind."""

    found_ids: Sequence[UUID]
    missing: Mapping[str, Sequence[str]]

    def mentions(self, index: BlindIndex) -> list[UUID]:
        """The users and keys that the response names."""
        missing = self.missing
        keys = mention_keys(missing["emails"], missing["external_ids"], missing["usernames"], index)
        return [*self.found_ids, *keys]


async def find(body: FindBatch, reader: UserReader, index: BlindIndex, *, fresh: bool) -> FindResponse:
    """The users of the keys, each once, in the order of the keys: ids, e-mails, external ids, usernames.

    Raises PayloadTooLarge, DatabaseUnavailable, and DecryptionError for a user whose encryption key is gone.
    """
    check_size(body.size, of="keys")
    ids = [parse_id(text) for text in body.ids]
    indexes: dict[int, Sequence[bytes | None]] = {
        EMAIL: [index_email(text, index) for text in body.emails],
        EXTERNAL_ID: [encode_text(text) for text in body.external_ids],
        USERNAME: [index_username(text, index) for text in body.usernames],
    }
    found = await reader.find(
        dict.fromkeys(key for key in ids if key is not None),
        {kind: {key for key in keys if key is not None} for kind, keys in indexes.items()},
        fresh=fresh,
    )
    matches = {kind: [found.by_identifier.get((kind, key or b"")) for key in keys] for kind, keys in indexes.items()}
    user_ids: dict[str, tuple[Sequence[str], Sequence[UUID | None]]] = {
        "ids": (body.ids, ids),
        "emails": (body.emails, matches[EMAIL]),
        "external_ids": (body.external_ids, matches[EXTERNAL_ID]),
        "usernames": (body.usernames, matches[USERNAME]),
    }
    documents: dict[UUID, bytes] = {}
    missing: dict[str, list[str]] = {}
    for name, (keys, matched) in user_ids.items():
        unmatched = missing[name] = []
        for key, user_id in zip(keys, matched, strict=True):
            entry = found.entries.get(user_id) if user_id is not None else None
            if isinstance(entry, Exception):
                raise entry
            if entry is None or user_id is None or entry.deleted:
                unmatched.append(key)
            else:
                documents[user_id] = entry.body
    return FindResponse(
        200,
        b'{"found":[' + b",".join(documents.values()) + b'],"missing":' + orjson.dumps(missing) + b"}",
        found_ids=list(documents),
        missing=missing,
    )
