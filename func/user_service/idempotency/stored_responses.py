"""Responses that are stored encrypted and sent again when the same request or event comes again.

A stored response is linked to the users that it is about in two ways: `traceparent` leads to the changes that its
transaction made; `mentions` holds the ids of users that it names without a change, and keyed hashes of the identifiers
that matched no user. So a batch that changes a thousand users stores no link to each.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from user_service.encryption.cipher import Cipher
from user_service.encryption.encrypted_column import EncryptedColumn

# The status of a stored response whose user was erased or purged; nothing else of the response is left.
GONE: Final = 410

RowKey = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was sent the first time. `items` are a batch's results, which are not stored."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    items: Sequence[dict[str, Any]] = field(default=(), repr=False)


class Links(NamedTuple):
    """What links a stored response to users: the trace of the changes, and the mentions."""

    traceparent: str
    mentions: Callable[[], Collection[UUID]]

    @property
    def columns(self) -> dict[str, Any]:
        return {"traceparent": self.traceparent, "mentions": list(self.mentions()) or None}


@dataclass(frozen=True, slots=True)
class ResponseTable(EncryptedColumn):
    """A table of stored responses: its encrypted column, and `digest_column`, which recognises the request."""

    digest_column: str

    @property
    def key_columns(self) -> str:
        return ", ".join(self.key)

    @property
    def key_rows(self) -> str:
        """Keys given as an array for each column, as rows `k` of a statement."""
        arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in self.key.items())
        return f"unnest({arrays}) AS k({self.key_columns})"

    def seal(self, cipher: Cipher, key: RowKey, head: bytes, body: bytes) -> bytes:
        return self.seal_all(cipher, [key], [(head, body)])[0]

    def seal_all(self, cipher: Cipher, keys: Sequence[RowKey], responses: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The tokens of heads and bodies, for the keys at the same positions."""
        contents = [head + b"\n" + body for head, body in responses]
        return cipher.seal_all(contents, purpose=self.purpose, user_ids=map(self.binding, keys))

    def open(self, cipher: Cipher, key: RowKey, token: bytes) -> tuple[bytes, bytes]:
        """The head and the body. Raises DecryptionError."""
        opened = cipher.open(token, purpose=self.purpose, user_id=self.binding(key))
        head, _, body = opened.partition(b"\n")
        return head, body


def event_hash(source: str, event_id: str) -> bytes:
    """What identifies an event: 32 bytes."""
    return hashlib.sha256(orjson.dumps([source, event_id])).digest()


IDEMPOTENCY_KEYS: Final = ResponseTable(
    table="idempotency_keys",
    column="response",
    key={"id": "bytea"},
    purpose=b"idempotency_keys.response",
    binding=lambda key: bytes(key[0]),
    digest_column="fingerprint",
)
INBOX: Final = ResponseTable(
    table="inbox",
    column="reply",
    key={"source": "text", "id": "text"},
    purpose=b"inbox.reply",
    binding=lambda key: event_hash(*key)[:16],
    digest_column="digest",
)
RESPONSE_TABLES: Final = (IDEMPOTENCY_KEYS, INBOX)
