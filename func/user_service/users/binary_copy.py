"""New users, their terms and their log in PostgreSQL's binary COPY format (PostgreSQL 18, COPY, "Binary Format").

asyncpg writes it too, from a tuple of each row and a call for each of its fields, which takes twice as long: here all
that has a fixed size is written by one call, and rows are put in their order as the bytes that they are.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import Final
from uuid import UUID

from user_service.users.change_log import Change, Origin
from user_service.users.model import User

SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END: Final = b"\xff\xff"
# A field is its length and as many bytes; NULL has the length -1 and none.
LENGTH: Final = Struct(">i")
NULL: Final = LENGTH.pack(-1)
JSONB_VERSION: Final = b"\x01"
# PostgreSQL counts microseconds from here.
EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)

# The key that rows are sorted by comes first.
USER_COLUMNS: Final = (
    "email_index",
    "id",
    "created_at",
    "updated_at",
    "version",
    "email_verified",
    "external_id",
    "personal",
    "locale",
    "timezone",
    "status",
    "metadata",
)
USER_START: Final = Struct(">hi16si16siqiqiii?")
TERM_COLUMNS: Final = ("term", "user_id")
TERM_ROW: Final = Struct(">hiqi16s")
CHANGE_COLUMNS: Final = (
    "user_id",
    "version",
    "lane",
    "type",
    "status",
    "changed",
    "actor",
    "request_id",
    "traceparent",
    "changed_at",
)
CHANGE_START: Final = Struct(">hi16siiih")
TIME: Final = Struct(">iq")
# Of text[]: one dimension, no NULL, the elements' type, how many there are, and the number of the first.
ARRAY_START: Final = Struct(">iiIii")
TEXT_OID: Final = 25


def copied_users(
    users: Sequence[User], email_indexes: Sequence[bytes], tokens: Sequence[bytes], documents: Sequence[bytes]
) -> bytes:
    """New users as `USER_COLUMNS`, sorted by e-mail index, so that two batches with the same addresses wait for each
    other instead of deadlocking. `tokens` are their sealed personal data, `documents` their metadata as JSON.
    """
    start, length = USER_START.pack, LENGTH.pack
    rows = []
    for user, email_index, token, document in zip(users, email_indexes, tokens, documents, strict=True):
        made = microseconds(user.created_at)
        fixed = start(12, 16, email_index, 16, user.id.bytes, 8, made, 8, made, 4, user.version, 1, user.email_verified)
        fields = (
            fixed,
            text_field(user.external_id),
            length(len(token)),
            token,
            known_field(user.locale),
            known_field(user.timezone),
            known_field(user.status),
            length(len(document) + 1),
            JSONB_VERSION,
            document,
        )
        rows.append(b"".join(fields))
    return whole(rows)


def copied_terms(postings: Iterable[tuple[Iterable[int], UUID]]) -> bytes:
    """Users' terms as `TERM_COLUMNS`, sorted by term, so that what is written together is in one place of the index."""
    row = TERM_ROW.pack
    return whole(
        [row(2, 8, term, 16, of_user) for own, user_id in postings for of_user in (user_id.bytes,) for term in own]
    )


def copied_changes(changes: Sequence[Change], origin: Origin, at: datetime, *, lanes: int) -> bytes:
    """First versions as `CHANGE_COLUMNS`. `lanes` is how many the outbox has; `txid` is the column's default."""
    start = CHANGE_START.pack
    known: dict[tuple[str, str, tuple[str, ...]], bytes] = {}
    rows = []
    for user, kind, changed in changes:
        alike = kind, user.status, changed
        rest = known.get(alike)
        if rest is None:
            texts = map(text_field, (kind, user.status))
            whence = map(text_field, (origin.actor, origin.request_id, origin.traceparent))
            rest = known[alike] = b"".join((*texts, array_field(changed), *whence, TIME.pack(8, microseconds(at))))
        user_id = user.id.bytes
        rows.append(start(10, 16, user_id, 4, user.version, 2, user_id[15] % lanes) + rest)
    return whole(rows)


def whole(rows: list[bytes]) -> bytes:
    rows.sort()
    return b"".join((SIGNATURE, *rows, END))


def text_field(text: str | None) -> bytes:
    if text is None:
        return NULL
    encoded = text.encode()
    return LENGTH.pack(len(encoded)) + encoded


def array_field(texts: Sequence[str]) -> bytes:
    """Of text[], which is not empty."""
    array = ARRAY_START.pack(1, 0, TEXT_OID, len(texts), 1) + b"".join(map(text_field, texts))
    return LENGTH.pack(len(array)) + array


# Few texts in many users: languages, time zones, states.
known_field: Final = lru_cache(maxsize=1024)(text_field)


@lru_cache(maxsize=8)
def microseconds(moment: datetime) -> int:
    """The users of one batch share few moments."""
    return (moment - EPOCH) // MICROSECOND
