"""Cursors: where a page ended, of the list or of an audit trail, opaque to callers and signed (HMAC-SHA-256, 16 bytes).

A cursor belongs to the query that it came from; with other filters or another order it is refused.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from user_service.errors import InvalidCursor
from user_service.values.ids import EPOCH

MICROSECOND: Final = timedelta(microseconds=1)
SIGNATURE_BYTES: Final = 16
CURSOR_BYTES: Final = 8 + 16
VERSION_BYTES: Final = 4


class Cursor(NamedTuple):
    """The last user of a page, in either order."""

    updated_at: datetime
    id: UUID


class CursorCodec:
    """Writes and reads cursors under one signing key."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def encode(self, cursor: Cursor, *, query: Mapping[str, object]) -> str:
        place = ((cursor.updated_at - EPOCH) // MICROSECOND).to_bytes(8, "big", signed=True) + cursor.id.bytes
        return written(place + self.sign(place, query))

    def decode(self, text: str, *, query: Mapping[str, object]) -> Cursor:
        """Raises InvalidCursor for anything that `encode` did not give for this very query."""
        place = self.place_of(text, query, size=CURSOR_BYTES)
        updated_at = EPOCH + int.from_bytes(place[:8], "big", signed=True) * MICROSECOND
        return Cursor(updated_at.astimezone(UTC), UUID(bytes=place[8:]))

    def encode_version(self, version: int, *, query: Mapping[str, object]) -> str:
        """A place in the versions of one user, whom `query` names."""
        place = version.to_bytes(VERSION_BYTES, "big")
        return written(place + self.sign(place, query))

    def decode_version(self, text: str, *, query: Mapping[str, object]) -> int:
        """Raises InvalidCursor for anything that `encode_version` did not give for this very query."""
        return int.from_bytes(self.place_of(text, query, size=VERSION_BYTES), "big")

    def place_of(self, text: str, query: Mapping[str, object], *, size: int) -> bytes:
        try:
            raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise InvalidCursor from None
        if written(raw) != text:
            raise InvalidCursor
        place, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        if len(place) != size or not hmac.compare_digest(signature, self.sign(place, query)):
            raise InvalidCursor("The cursor was not made for this query; start again without it.")
        return place

    def sign(self, place: bytes, query: Mapping[str, object]) -> bytes:
        asked = orjson.dumps(dict(query), option=orjson.OPT_SORT_KEYS)
        return hmac.digest(self.key, place + asked, "sha256")[:SIGNATURE_BYTES]


def written(raw: bytes) -> str:
    """The one spelling of a cursor's bytes; base64 would read others too."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
