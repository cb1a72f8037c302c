"""New users, identifiers and terms in PostgreSQL's binary COPY format (PostgreSQL 18, COPY, "Binary Format").

asyncpg can encode it too, with a call for each field, which takes twice as long: here all fields of a fixed size are
encoded by one call, and rows are sorted as bytes.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import Final
from uuid import UUID

from user_service.users.identifiers import Identifier
from user_service.users.model import User

SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END: Final = b"\xff\xff"
# A field is its length and that number of bytes; NULL is the length -1 without bytes.
LENGTH: Final = Struct(">i")
NULL: Final = LENGTH.pack(-1)
JSONB_START: Final = Struct(">ib")
JSONB_VERSION: Final = 1
# The time that PostgreSQL counts microseconds from.
POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)

# The column that rows are sorted by comes first.
COPIED_USER_COLUMNS: Final = (
    "id",
    "created_at",
    "updated_at",
    "version",
    "email_verified",
    "external_id",
    "phone_index",
    "personal",
    "locale",
    "timezone",
    "status",
    "metadata",
    "last_login_at",
)
USER_START: Final = Struct(">hi16siqiqiii?")
COPIED_IDENTIFIER_COLUMNS: Final = ("kind", "index", "user_id")
IDENTIFIER_START: Final = Struct(">hihi")
UUID_FIELD: Final = Struct(">i16s")
COPIED_TERM_COLUMNS: Final = ("term", "user_id")
TERM_START: Final = Struct(">hiqi")
TIME_FIELD: Final = Struct(">iq")
BIGINT_FIELD: Final = TIME_FIELD


def encode_users(
    users: Sequence[User], phones: Sequence[int | None], tokens: Sequence[bytes], documents: Sequence[bytes]
) -> bytes:
    """New users as `COPIED_USER_COLUMNS`, sorted by id. `phones` are indexes, `tokens` the encrypted personal data,
    `documents` the metadata as JSON.
    """
    start, length, jsonb = USER_START.pack, LENGTH.pack, JSONB_START.pack
    rows = []
    for user, phone, token, document in zip(users, phones, tokens, documents, strict=True):
        created_at = updated_at = microseconds(user.created_at)
        if user.updated_at is not user.created_at:
            updated_at = microseconds(user.updated_at)
        times = 8, created_at, 8, updated_at
        fixed = start(13, 16, user.id.bytes, *times, 4, user.version, 1, user.email_verified)
        fields = (
            fixed,
            text_field(user.external_id),
            NULL if phone is None else BIGINT_FIELD.pack(8, phone),
            length(len(token)),
            token,
            repeated_fields(user.locale, user.timezone, user.status),
            jsonb(len(document) + 1, JSONB_VERSION),
            document,
            time_field(user.last_login_at),
        )
        rows.append(b"".join(fields))
    return join_rows(rows)


def encode_identifiers(users: Sequence[User], wanted: Sequence[Iterable[Identifier]]) -> bytes:
    """The identifiers of users as `COPIED_IDENTIFIER_COLUMNS`, sorted by kind, length and value, the order in which all
    transactions claim identifiers.
    """
    start, field = IDENTIFIER_START.pack, UUID_FIELD.pack
    rows = []
    for user, identifiers in zip(users, wanted, strict=True):
        user_id = field(16, user.id.bytes)
        for key in identifiers:
            rows.append(start(3, 2, key[0], len(key) - 1) + key[1:] + user_id)  # noqa: PERF401
    return join_rows(rows)


def encode_terms(postings: Iterable[tuple[Iterable[int], UUID]]) -> bytes:
    """The terms of users as `COPIED_TERM_COLUMNS`, sorted by term, as the index is. Most terms are those of many users,
    so the fields before the user's id are encoded once for each term.
    """
    ids: dict[int, list[bytes]] = {}
    for terms, user_id in postings:
        raw_id = user_id.bytes
        for term in terms:
            if term in ids:
                ids[term].append(raw_id)
            else:
                ids[term] = [raw_id]
    data = [SIGNATURE]
    for term in sorted(ids):
        start = TERM_START.pack(2, 8, term, 16)
        data += start, start.join(ids[term])
    data.append(END)
    return b"".join(data)


def join_rows(rows: list[bytes]) -> bytes:
    rows.sort()
    return b"".join((SIGNATURE, *rows, END))


def text_field(text: str | None) -> bytes:
    if text is None:
        return NULL
    encoded = text.encode()
    return LENGTH.pack(len(encoded)) + encoded


def time_field(moment: datetime | None) -> bytes:
    return NULL if moment is None else TIME_FIELD.pack(8, microseconds(moment))


@lru_cache(maxsize=1024)
def repeated_fields(*texts: str | None) -> bytes:
    """For columns with few different values: locales, time zones, statuses."""
    return b"".join(map(text_field, texts))


@lru_cache(maxsize=8)
def microseconds(moment: datetime) -> int:
    """Cached, since the users of one batch share few times."""
    return (moment - POSTGRES_EPOCH) // MICROSECOND
