"""Cursors of the list, of audit trails and of the feed: the end of a page, opaque and signed (HMAC-SHA-256, 16 bytes).

One of the list or of a trail is valid only for the query that returned it, with the same filters and order.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from user_service.encryption.blind_index import PrefixedHmac
from user_service.errors import InvalidCursor
from user_service.values.ids import EPOCH

MICROSECOND: Final = timedelta(microseconds=1)
SIGNATURE_BYTES: Final = 16
CURSOR_BYTES: Final = 8 + 16
VERSION_BYTES: Final = 4
FEED: Final = {"feed": "changes"}


class Cursor(NamedTuple):
    """The position of the last user of a page. In the order of ids, `updated_at` has no meaning."""

    updated_at: datetime
    id: UUID


class FeedCursor(NamedTuple):
    """A position in the feed, with the id of the change there: another change has it once the database was restored."""

    position: int
    change_id: UUID


class CursorCodec:
    """Encodes and decodes cursors under one signing key."""

    def __init__(self, key: bytes) -> None:
        self.hmac = PrefixedHmac(key, b"")

    def encode(self, cursor: Cursor, *, query: Mapping[str, object]) -> str:
        position = ((cursor.updated_at - EPOCH) // MICROSECOND).to_bytes(8, "big", signed=True) + cursor.id.bytes
        return encode_base64(position + self.sign(position, query))

    def decode(self, text: str, *, query: Mapping[str, object]) -> Cursor:
        """Raises InvalidCursor for anything that `encode` did not return for this query."""
        position = self.verify(text, query, size=CURSOR_BYTES)
        updated_at = EPOCH + int.from_bytes(position[:8], "big", signed=True) * MICROSECOND
        return Cursor(updated_at.astimezone(UTC), UUID(bytes=position[8:]))

    def encode_version(self, version: int, *, query: Mapping[str, object]) -> str:
        """The cursor of a version of the user that `query` names."""
        position = version.to_bytes(VERSION_BYTES, "big")
        return encode_base64(position + self.sign(position, query))

    def decode_version(self, text: str, *, query: Mapping[str, object]) -> int:
        """Raises InvalidCursor for anything that `encode_version` did not return for this query."""
        return int.from_bytes(self.verify(text, query, size=VERSION_BYTES), "big")

    def encode_position(self, cursor: FeedCursor) -> str:
        position = cursor.position.to_bytes(8, "big") + cursor.change_id.bytes
        return encode_base64(position + self.sign(position, FEED))

    def decode_position(self, text: str) -> FeedCursor:
        """Raises InvalidCursor for anything that `encode_position` did not return."""
        position = self.verify(text, FEED, size=CURSOR_BYTES)
        return FeedCursor(int.from_bytes(position[:8], "big"), UUID(bytes=position[8:]))

    def verify(self, text: str, query: Mapping[str, object], *, size: int) -> bytes:
        try:
            raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise InvalidCursor from None
        if encode_base64(raw) != text:
            raise InvalidCursor
        position, signature = raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]
        if len(position) != size or not hmac.compare_digest(signature, self.sign(position, query)):
            raise InvalidCursor("The cursor was not made for this query; start again without it.")
        return position

    def sign(self, position: bytes, query: Mapping[str, object]) -> bytes:
        canonical_query = orjson.dumps(dict(query), option=orjson.OPT_SORT_KEYS)
        return self.hmac.digest(position + canonical_query)[:SIGNATURE_BYTES]


def encode_base64(raw: bytes) -> str:
    """The canonical encoding; base64 decoders accept others too."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
