"""Requests that take effect once although they are sent again: the response is stored in the transaction of the effect.

A row identifies its request by keyed hashes only, and holds the response encrypted: it may contain personal data.
"""

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.encryption.keyring import Keyring
from user_service.errors import IdempotencyInProgress, IdempotencyKeyReused, ResponseErased, ServiceError
from user_service.idempotency.stored_responses import GONE, IDEMPOTENCY_KEYS, Links, StoredResponse
from user_service.postgres.retention import OLD_RESPONSES, delete_batch, interval
from user_service.postgres.retention import RESPONSES as RETENTION
from user_service.postgres.session import Row, Session
from user_service.postgres.statements import Statement, text

ID_BYTES: Final = 16

TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:number)")
FIND_REQUEST: Final = text("SELECT fingerprint, response FROM idempotency_keys WHERE id = :key AND expires_at > now()")
COLUMNS: Final = "id, fingerprint, response, created_at, expires_at, traceparent, mentions"
VALUES: Final = (
    f"CAST(:key AS bytea), CAST(:fingerprint AS bytea), CAST(:response AS bytea), now(), now() + {interval(RETENTION)},"
    " CAST(:traceparent AS text), CAST(:mentions AS uuid[])"
)
# Each new key removes a few expired ones, so that the table holds about one day's requests; so does each group of new
# keys, which has up to 50.
REMOVED_AT_ONCE: Final = 10
REMOVED_BY_GROUP: Final = 100
REMOVE_OLD_REQUESTS: Final = delete_batch(
    "idempotency_keys", ("id",), OLD_RESPONSES.format(" AND id <> :key"), limit=REMOVED_AT_ONCE
)
STORE_REQUEST: Final = text(
    f"{REMOVE_OLD_REQUESTS} INSERT INTO idempotency_keys ({COLUMNS}) VALUES ({VALUES})"  # noqa: S608
    " ON CONFLICT (id) DO UPDATE SET (fingerprint, response, created_at, expires_at, traceparent, mentions)"
    " = ROW(excluded.fingerprint, excluded.response, excluded.created_at, excluded.expires_at, excluded.traceparent,"
    " excluded.mentions)"
)
# The same for several requests, as parts of a statement. The places of those whose key another transaction holds or has
# stored, in part `repeated`: a request is the first with its key if it gets the lock that `find_first` takes.
CHECK_KEYS: Final = (
    "repeated AS MATERIALIZED (SELECT k.place FROM (SELECT v.place, pg_try_advisory_xact_lock(v.number)"
    " AND (SELECT true FROM idempotency_keys WHERE id = v.id LIMIT 1) IS NULL AS is_first"
    " FROM unnest(CAST(:key_places AS integer[]), CAST(:key_numbers AS bigint[]), CAST(:key_ids AS bytea[]))"
    " AS v(place, number, id) OFFSET 0) k WHERE NOT k.is_first)"
)
# Where part `go` has their places, with their traceparents. Raises a unique violation for a key that was stored since
# the statement began.
STORE_RESPONSES: Final = (
    "gone AS (DELETE FROM idempotency_keys WHERE id = ANY(ARRAY(SELECT id FROM idempotency_keys"  # noqa: S608
    f" WHERE {OLD_RESPONSES.format(' AND id <> ALL(CAST(:key_ids AS bytea[]))')}"
    f" LIMIT {REMOVED_BY_GROUP} FOR UPDATE SKIP LOCKED)))",
    f"stored AS (INSERT INTO idempotency_keys ({COLUMNS})"  # noqa: S608
    f" SELECT v.id, v.fingerprint, v.response, now(), now() + {interval(RETENTION)}, go.traceparent, NULL"
    " FROM go JOIN unnest(CAST(:key_places AS integer[]), CAST(:key_ids AS bytea[]),"
    " CAST(:fingerprints AS bytea[]), CAST(:responses AS bytea[])) AS v(place, id, fingerprint, response)"
    " ON v.place = go.place)",
)
IN_PROGRESS: Final = "Try again in a moment: the response will be that of the first request."


class TransactionHook(Protocol):
    """Recognises a request that comes again, in the transaction of its effect: both are committed, or neither."""

    @property
    def stores_all(self) -> bool:
        """Whether responses without an effect are stored too: of dry runs, and of batches with invalid items."""

    async def before(self, session: Session) -> StoredResponse | None:
        """The response of the first time; None the first time. Raises what refuses the request."""

    async def after(self, session: Session, response: StoredResponse, links: Links) -> None:
        """Stores the response of the first time, with links to its users."""


async def find_first(
    session: Session, name: bytes, find: Statement, key: Mapping[str, object], *, busy: ServiceError
) -> Row | None:
    """The row that the first time has stored; None the first time, which then holds a lock on `name` until it ends.

    Raises `busy` at once while another transaction holds the lock.
    """
    if not (await session.execute(TRY_LOCK, {"number": lock_number(name)})).scalar_one():
        raise busy
    # A statement of its own: its snapshot must be younger than the lock, to see what the last holder committed.
    return (await session.execute(find, key)).one_or_none()


def lock_number(name: bytes) -> int:
    return int.from_bytes(name[:8], "big", signed=True)


class KeyedResponse(NamedTuple):
    """The response to a request with an Idempotency-Key, to be stored by `STORE_RESPONSES`."""

    id: bytes
    fingerprint: bytes
    response: StoredResponse

    @staticmethod
    def arrays(stored: Sequence[tuple["KeyedResponse", int]], cipher: Cipher) -> dict[str, Sequence[Any]]:
        """The parameters of `CHECK_KEYS` and `STORE_RESPONSES`, for responses and their places."""
        keys = [(one.id,) for one, _ in stored]
        contents = [(encode_head(one.response), one.response.body) for one, _ in stored]
        return {
            "key_places": [place for _, place in stored],
            "key_numbers": [lock_number(one.id) for one, _ in stored],
            "key_ids": [one.id for one, _ in stored],
            "fingerprints": [one.fingerprint for one, _ in stored],
            "responses": IDEMPOTENCY_KEYS.seal_all(cipher, keys, contents),
        }


def encode_head(response: StoredResponse) -> bytes:
    return orjson.dumps([response.status, response.headers])


class IdempotentRequest:
    """One request with an Idempotency-Key: a `TransactionHook` over table idempotency_keys."""

    stores_all = False

    def __init__(
        self, keys: Keyring, index: BlindIndex, *, principal: str, key: str, request: Sequence[str], body: bytes
    ) -> None:
        """`request` is what distinguishes requests besides the body: method, address, conditions."""
        self.cipher: Cipher = keys.cipher
        self.index = index
        self.id = keys.idempotency.digest(orjson.dumps([principal, key]))[:ID_BYTES]
        content = orjson.dumps([principal, *request, sha256(body).hexdigest()])
        self.fingerprint = keys.idempotency.digest(content)

    async def before(self, session: Session) -> StoredResponse | None:
        """Raises IdempotencyInProgress at once while another transaction has the key, IdempotencyKeyReused, and
        ResponseErased.
        """
        row = await find_first(
            session, self.id, FIND_REQUEST, {"key": self.id}, busy=IdempotencyInProgress(IN_PROGRESS)
        )
        return self.read(row) if row is not None else None

    def read(self, row: Row) -> StoredResponse:
        """The stored response. Raises IdempotencyKeyReused, ResponseErased."""
        if not is_same(row["fingerprint"], self.fingerprint, self.index):
            raise IdempotencyKeyReused("Send a new Idempotency-Key with every new request.")
        response = self.open(row["response"])
        if response.status == GONE:
            raise ResponseErased(
                "The request took effect; its user was erased or purged since, and the stored response with it."
            )
        return response

    async def after(self, session: Session, response: StoredResponse, links: Links) -> None:
        sealed = IDEMPOTENCY_KEYS.seal(self.cipher, (self.id,), encode_head(response), response.body)
        values = {"key": self.id, "fingerprint": self.fingerprint, "response": sealed, **links.columns}
        await session.execute(STORE_REQUEST, values)

    def keyed_response(self, response: StoredResponse) -> KeyedResponse:
        return KeyedResponse(self.id, self.fingerprint, response)

    def open(self, token: bytes) -> StoredResponse:
        head, body = IDEMPOTENCY_KEYS.open(self.cipher, (self.id,), token)
        status, headers = orjson.loads(head)
        return StoredResponse(status, [(name, value) for name, value in headers], body)


def is_same(stored: bytes, digest: bytes, index: BlindIndex) -> bool:
    """Whether a stored digest is this one, or the keyed hash of this one that an erasure has left."""
    return hmac.compare_digest(stored, digest) or hmac.compare_digest(stored, index.digest(digest))
