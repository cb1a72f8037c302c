"""Ids of users and of changes: UUIDv7 (RFC 9562), which sort by the time of creation.

A user's `created_at` is the id's millisecond, so the order by id is the order by creation. Ids are asyncpg's subclass
of `UUID`, which is created, hashed and formatted several times as fast.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from uuid import UUID

from asyncpg.pgproto import pgproto
from uuid_utils import uuid7

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
CANONICAL: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def new_id() -> UUID:
    """A new UUIDv7, monotonic within this process."""
    user_id: UUID = pgproto.UUID(uuid7().bytes)
    return user_id


def new_id_at(moment: datetime) -> UUID:
    """A new UUIDv7 of a user that was created at `moment`, not before 1970; to the millisecond."""
    milliseconds = (moment - EPOCH) // MILLISECOND
    user_id: UUID = pgproto.UUID(milliseconds.to_bytes(6) + new_id().bytes[6:])
    return user_id


def parse_id(text: str) -> UUID | None:
    """The id of a text in RFC 9562's format, in either case; None for other formats, some of which `UUID` accepts."""
    if not CANONICAL.fullmatch(text):
        return None
    user_id: UUID = pgproto.UUID(text)
    return user_id


def parse_canonical_id(text: str) -> UUID | None:
    """The id in a text, where the text has the form that this service writes."""
    user_id = parse_id(text)
    return user_id if str(user_id) == text else None


def id_time(user_id: UUID) -> datetime:
    """The UTC time, in whole milliseconds, that a UUIDv7 carries. Raises OverflowError after the year 9999."""
    return time_at(id_milliseconds(user_id))


def id_milliseconds(user_id: UUID) -> int:
    """The milliseconds since 1970 that a UUIDv7 carries; up to 2**48 - 1, which is later than any `datetime`."""
    return int.from_bytes(user_id.bytes[:6])


@lru_cache(maxsize=8)
def time_at(milliseconds: int) -> datetime:
    """Cached, because the users of one batch share a few times."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def first_id_at(moment: datetime) -> UUID:
    """The lowest id of a user created at `moment` or later."""
    return lowest_id(-((EPOCH - moment) // MILLISECOND))


def first_id_after(moment: datetime) -> UUID:
    """The lowest id of a user created after `moment`."""
    return lowest_id((moment - EPOCH) // MILLISECOND + 1)


def lowest_id(milliseconds: int) -> UUID:
    return UUID(int=max(0, min(milliseconds, 2**48 - 1)) << 80)
