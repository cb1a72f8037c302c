"""Writes that happen once although they are asked for again: the answer is kept in the transaction of the effect.

A row knows its request by keyed hashes alone, and holds the answer sealed: it may contain personal data.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Protocol

import orjson
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.encryption.keyring import Keyring
from user_service.errors import AnswerErased, IdempotencyInProgress, IdempotencyKeyReused, ServiceError
from user_service.idempotency.stored_responses import ANSWERS, GONE, Links
from user_service.postgres.retention import ANSWERS as KEPT_FOR
from user_service.postgres.retention import OLD_ANSWERS, interval, removal

ID_BYTES: Final = 16

TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:number)")
FIND: Final = text("SELECT fingerprint, answer FROM idempotency_keys WHERE id = :id AND expires_at > now()")
# Each new key removes a few that expired, so that the table stays as large as a day's requests.
REMOVE_OLD: Final = removal("idempotency_keys", ("id",), OLD_ANSWERS.format(" AND id <> :id"), limit=10)
KEEP: Final = text(
    f"{REMOVE_OLD} INSERT INTO idempotency_keys"  # noqa: S608
    " (id, fingerprint, answer, created_at, expires_at, traceparent, mentions)"
    f" VALUES (:id, :fingerprint, :answer, now(), now() + {interval(KEPT_FOR)}, :traceparent,"
    " CAST(:mentions AS uuid[]))"
    " ON CONFLICT (id) DO UPDATE SET (fingerprint, answer, created_at, expires_at, traceparent, mentions)"
    " = ROW(excluded.fingerprint, excluded.answer, excluded.created_at, excluded.expires_at, excluded.traceparent,"
    " excluded.mentions)"
)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer as it was given the first time. `items` are a batch's outcomes, which are not kept."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    items: Sequence[dict[str, Any]] = field(default=(), repr=False)


class TransactionHook(Protocol):
    """What recognises a request that comes again. Works in the transaction of the effect, so both last or neither."""

    @property
    def keeps_all(self) -> bool:
        """Whether answers without an effect are kept too: of a dry run, or of a batch refused for a wrong item."""

    async def claim(self, session: AsyncSession) -> StoredResponse | None:
        """The answer of the first time; None for the first time itself. Raises what refuses the request."""

    async def keep(self, session: AsyncSession, answer: StoredResponse, links: Links) -> None:
        """Keeps the answer of the first time, and whom it speaks of."""


async def find_first(
    session: AsyncSession, name: bytes, find: TextClause, key: Mapping[str, object], *, busy: ServiceError
) -> Row[Any] | None:
    """The row that the first time left; None for the first time itself, which then holds the name to its end.

    Raises `busy` at once while another transaction holds it.
    """
    number = int.from_bytes(name[:8], "big", signed=True)
    if not (await session.execute(TRY_LOCK, {"number": number})).scalar_one():
        raise busy
    # A statement of its own: its snapshot must be younger than the lock, to see what the last holder committed.
    return (await session.execute(find, key)).one_or_none()


class IdempotentRequest:
    """One request under an Idempotency-Key: a `TransactionHook` over table idempotency_keys."""

    keeps_all = False

    def __init__(
        self, keys: Keyring, index: BlindIndex, *, principal: str, key: str, request: Sequence[str], body: bytes
    ) -> None:
        """`request` is all that makes it another request, besides the body: method, address, conditions."""
        self.cipher: Cipher = keys.cipher
        self.index = index
        secret = keys.idempotency
        self.id = hmac.digest(secret, orjson.dumps([principal, key]), "sha256")[:ID_BYTES]
        asked = orjson.dumps([principal, *request, sha256(body).hexdigest()])
        self.fingerprint = hmac.digest(secret, asked, "sha256")

    async def claim(self, session: AsyncSession) -> StoredResponse | None:
        """Raises IdempotencyInProgress at once while another transaction has the key, IdempotencyKeyReused, and
        AnswerErased.
        """
        busy = IdempotencyInProgress("Try again in a moment: the answer will be that of the first request.")
        row = await find_first(session, self.id, FIND, {"id": self.id}, busy=busy)
        if row is None:
            return None
        if not is_same(row.fingerprint, self.fingerprint, self.index):
            raise IdempotencyKeyReused("Send a new Idempotency-Key with every new request.")
        answer = self.opened(row.answer)
        if answer.status == GONE:
            raise AnswerErased("The request had its effect; its user was erased or purged since, and the answer too.")
        return answer

    async def keep(self, session: AsyncSession, answer: StoredResponse, links: Links) -> None:
        values = {"id": self.id, "fingerprint": self.fingerprint, "answer": self.sealed(answer)}
        await session.execute(KEEP, values | links.columns)

    def sealed(self, answer: StoredResponse) -> bytes:
        return ANSWERS.seal(self.cipher, (self.id,), orjson.dumps([answer.status, answer.headers]), answer.body)

    def opened(self, token: bytes) -> StoredResponse:
        head, body = ANSWERS.open(self.cipher, (self.id,), token)
        status, headers = orjson.loads(head)
        return StoredResponse(status, [(name, value) for name, value in headers], body)


def is_same(known: bytes, digest: bytes, index: BlindIndex) -> bool:
    """Whether a kept digest is this one, or this one hashed again."""
    return hmac.compare_digest(known, digest) or hmac.compare_digest(known, index.digest(digest))
