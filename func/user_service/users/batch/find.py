"""Many users by their keys: what is cached is answered as it is, the rest by one statement."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.errors import PayloadTooLarge
from user_service.users.batch.bodies import MAX_ITEMS, FindBatch
from user_service.users.batch.results import BatchResponse
from user_service.users.reader import UserReader
from user_service.values.emails import normalise_email
from user_service.values.ids import parse_id

NUL: Final = "\0"


async def find(body: FindBatch, reader: UserReader, index: BlindIndex, *, fresh: bool) -> tuple[BatchResponse, int]:
    """The answer and the number of keys. Found users come once, in the order of the keys: ids, e-mails, external ids.

    Raises PayloadTooLarge, DatabaseUnavailable, and DecryptionError for a user whose encryption key is gone.
    """
    size = len(body.ids) + len(body.emails) + len(body.external_ids)
    if size > MAX_ITEMS:
        raise PayloadTooLarge(f"A batch has {MAX_ITEMS:,} keys at most; this one has {size:,}. Send several batches.")
    ids = [parse_id(text) for text in body.ids]
    email_indexes = [index_of(text, index) for text in body.emails]
    external_ids = [None if NUL in text else text for text in body.external_ids]
    found = await reader.find(
        dict.fromkeys(key for key in ids if key is not None),
        {key for key in email_indexes if key is not None},
        {key for key in external_ids if key is not None},
        fresh=fresh,
    )
    sought: list[tuple[Sequence[str], Sequence[UUID | None]]] = [
        (body.ids, ids),
        (body.emails, [found.by_email_index.get(key or b"") for key in email_indexes]),
        (body.external_ids, [found.by_external_id.get(key or "") for key in external_ids]),
    ]
    bodies: dict[UUID, bytes] = {}
    missing: list[list[str]] = []
    for texts, keys in sought:
        lost = []
        for text, key in zip(texts, keys, strict=True):
            entry = found.entries.get(key) if key is not None else None
            if isinstance(entry, Exception):
                raise entry
            if entry is None or key is None or entry.deleted:
                lost.append(text)
            else:
                bodies[key] = entry.body
        missing.append(lost)
    lost_ids, lost_emails, lost_external_ids = missing
    rest = orjson.dumps({"ids": lost_ids, "emails": lost_emails, "external_ids": lost_external_ids})
    return BatchResponse(200, b'{"found":[' + b",".join(bodies.values()) + b'],"missing":' + rest + b"}"), size


def index_of(text: str, index: BlindIndex) -> bytes | None:
    try:
        return index.email(normalise_email(text))
    except ValueError:
        return None
