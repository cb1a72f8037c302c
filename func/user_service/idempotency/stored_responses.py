"""Answers that are kept for whoever asks again: sealed, linked to those whom they speak of, and without them later.

An answer speaks of those whom its transaction changed: it has the trace of their changes. Whom it names besides stands
beside it as `mentions`: users' ids, and keyed hashes of the e-mail addresses and external ids that led to nobody. So a
batch that changes a thousand people pays for no link to each.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher, DecryptionError, KeyMissing
from user_service.values.emails import normalise_email
from user_service.values.ids import parse_id

# The answer to one user's request, once that user is erased; nothing else of it is left.
GONE: Final = 410
GONE_HEAD: Final = orjson.dumps([GONE, []])
ROWS_AT_ONCE: Final = 100

Key = tuple[Any, ...]


class Links(NamedTuple):
    """What leads from a person to an answer: the trace of the changes, and whom it names besides."""

    traceparent: str
    mentions: Callable[[], Collection[UUID]]

    @property
    def columns(self) -> dict[str, Any]:
        return {"traceparent": self.traceparent, "mentions": list(self.mentions()) or None}


@dataclass(frozen=True, slots=True)
class DataSubject:
    """Somebody as answers may name them; the e-mail by its blind index, and both keys only while the row has them."""

    id: UUID
    email_index: bytes | None = None
    external_id: str | None = None

    def hashes(self, index: BlindIndex) -> list[UUID]:
        """The keyed hashes under which `mentions` may have them, besides the id."""
        found = [UUID(bytes=self.email_index)] if self.email_index else []
        return found + ([index.external_id(self.external_id)] if self.external_id is not None else [])


@dataclass(frozen=True, slots=True)
class ResponseTable:
    """A table of kept answers: its key with the columns' types, its sealed column, the column that knows the request
    again, and what the seal is bound to.
    """

    table: str
    key: Mapping[str, str]
    column: str
    digest: str
    purpose: bytes
    name_of: Callable[..., bytes]

    @property
    def keys(self) -> str:
        return ", ".join(self.key)

    @property
    def given_keys(self) -> str:
        """The keys that a statement is given, as rows `k`."""
        return f"unnest({', '.join(f'CAST(:{name} AS {kind}[])' for name, kind in self.key.items())}) AS k({self.keys})"

    @property
    def update(self) -> str:
        """Writes sealed answers and digests, and takes `hashes` out of the mentions."""
        arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in self.key.items())
        same = " AND ".join(f"{self.table}.{name} = v.{name}" for name in self.key)
        return (
            f"UPDATE {self.table} SET {self.column} = v.sealed, {self.digest} = v.digest, mentions ="  # noqa: S608
            " (SELECT array_agg(m) FROM unnest(mentions) AS m WHERE m <> ALL(CAST(:hashes AS uuid[])))"
            f" FROM unnest({arrays}, CAST(:sealed AS bytea[]), CAST(:digests AS bytea[]))"
            f" AS v({self.keys}, sealed, digest)"
            f" WHERE {same}"
        )

    def seal(self, cipher: Cipher, key: Key, head: bytes, body: bytes) -> bytes:
        return cipher.seal(head + b"\n" + body, purpose=self.purpose, user_id=self.name_of(*key))

    def open(self, cipher: Cipher, key: Key, token: bytes) -> tuple[bytes, bytes]:
        """The head and the body. Raises DecryptionError."""
        opened = cipher.open(token, purpose=self.purpose, user_id=self.name_of(*key))
        head, _, body = opened.partition(b"\n")
        return head, body


def event_name(source: str, event_id: str) -> bytes:
    """What an event is known by: 32 bytes."""
    return hashlib.sha256(orjson.dumps([source, event_id])).digest()


ANSWERS: Final = ResponseTable(
    "idempotency_keys", {"id": "bytea"}, "answer", "fingerprint", b"idempotency_keys.answer", lambda key: key
)
REPLIES: Final = ResponseTable(
    "inbox",
    {"source": "text", "id": "text"},
    "reply",
    "digest",
    b"inbox.reply",
    lambda source, event_id: event_name(source, event_id)[:16],
)
SHELVES: Final = (ANSWERS, REPLIES)


def mentions_of_item(item: object, index: BlindIndex) -> list[UUID]:
    """Whom an item of a batch is about, as far as it says so: an id, an e-mail address, an external id."""
    if not isinstance(item, dict):
        return []
    data = item.get("data")
    keys = data if isinstance(data, dict) else {}
    return mentions_of_keys([item.get("id")], [keys.get("email")], [keys.get("external_id")], index)


def mentions_of_find(body: bytes, index: BlindIndex) -> list[UUID]:
    """Whom the answer of a find names: those who were found, and the keys that led to nobody."""
    missing = orjson.loads(body)["missing"]
    return found_in(body) + mentions_of_keys((), missing["emails"], missing["external_ids"], index)


def found_in(body: bytes) -> list[UUID]:
    """The ids of the users in the answer of a find."""
    return [UUID(user["id"]) for user in orjson.loads(body)["found"]]


def mentions_of_keys(
    ids: Iterable[object], emails: Iterable[object], external_ids: Iterable[object], index: BlindIndex
) -> list[UUID]:
    found = [parse_id(value) for value in ids if isinstance(value, str)]
    found += [email_mention(value, index) for value in emails if isinstance(value, str)]
    found += [index.external_id(value) for value in external_ids if isinstance(value, str)]
    return [mention for mention in found if mention is not None]


def email_mention(email: str, index: BlindIndex) -> UUID | None:
    try:
        return UUID(bytes=index.email(normalise_email(email)))
    except ValueError:
        return None


def without(head: bytes, body: bytes, person: DataSubject, index: BlindIndex) -> tuple[bytes, bytes]:
    """An answer without a person: the same where it says nothing of them.

    The answer to one user's request becomes `GONE`. A batch keeps its outcomes and loses the caller's `ref` of the
    person's items and of all that name no user; a find loses the person, and the keys that meant them.
    """
    document = orjson.loads(body) if body else {}
    if "found" in document:
        left = without_found(document, person, index)
    elif "items" in document:
        left = without_refs(document, person)
    else:
        return (GONE_HEAD, b"") if document.get("id") == str(person.id) else (head, body)
    return head, orjson.dumps(left) if left != document else body


def without_found(answer: dict[str, Any], person: DataSubject, index: BlindIndex) -> dict[str, Any]:
    missing = answer["missing"]
    own = person.email_index and UUID(bytes=person.email_index)
    return {
        "found": [user for user in answer["found"] if user["id"] != str(person.id)],
        "missing": {
            "ids": missing["ids"],
            "emails": [email for email in missing["emails"] if not own or email_mention(email, index) != own],
            "external_ids": [key for key in missing["external_ids"] if key != person.external_id],
        },
    }


def without_refs(answer: dict[str, Any], person: DataSubject) -> dict[str, Any]:
    theirs = (None, str(person.id))
    items = [{**item, "ref": None} if item["id"] in theirs else item for item in answer["items"]]
    return {**answer, "items": items}


class StoredResponses:
    """All kept answers, in the transaction of `session`."""

    def __init__(self, session: AsyncSession, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.cipher = cipher
        self.index = index

    async def of(self, shelf: ResponseTable, person: DataSubject) -> AsyncIterator[Key]:
        """The keys of the answers that speak of a person, in order.

        Those without a trace are from before there were links, and are opened one by one.
        """
        statement = text(
            f"WITH k AS (SELECT {shelf.keys} FROM {shelf.table} JOIN user_changes USING (traceparent)"  # noqa: S608
            f" WHERE user_id = :user_id UNION SELECT {shelf.keys} FROM {shelf.table}"
            " WHERE mentions && CAST(:mentions AS uuid[])"
            f" UNION SELECT {shelf.keys} FROM {shelf.table} WHERE traceparent IS NULL)"
            f" SELECT {shelf.keys}, {shelf.column}, traceparent IS NOT NULL"
            f" FROM {shelf.table} JOIN k USING ({shelf.keys}) ORDER BY {shelf.keys}"
        )
        values = {"user_id": person.id, "mentions": [person.id, *person.hashes(self.index)]}
        rows = await self.session.stream(statement, values, execution_options={"yield_per": ROWS_AT_ONCE})
        async for *key, token, linked in rows:
            if linked or self.speaks(shelf, tuple(key), token, person):
                yield tuple(key)

    def speaks(self, shelf: ResponseTable, key: Key, token: bytes, person: DataSubject) -> bool:
        try:
            head, body = shelf.open(self.cipher, key, token)
        except KeyMissing:
            raise
        except DecryptionError:
            return False
        return str(person.id).encode() in body or without(head, body, person, self.index) != (head, body)

    async def take_out(self, person: DataSubject) -> None:
        """Rewrites all that speak of a person. What comes again under their keys is recognised all the same."""
        for shelf in SHELVES:
            keys = [key async for key in self.of(shelf, person)]
            for start in range(0, len(keys), ROWS_AT_ONCE):
                await self.rewrite(shelf, keys[start : start + ROWS_AT_ONCE], person)

    async def rewrite(self, shelf: ResponseTable, keys: Sequence[Key], person: DataSubject) -> None:
        """Locks these answers, whom another erasure may be about as well, and writes them without the person."""
        given = dict(zip(shelf.key, map(list, zip(*keys, strict=True)), strict=True))
        lock = text(
            f"SELECT {shelf.keys}, {shelf.column}, {shelf.digest} FROM {shelf.table} JOIN {shelf.given_keys}"  # noqa: S608
            f" USING ({shelf.keys}) ORDER BY {shelf.keys} FOR UPDATE OF {shelf.table}"
        )
        written: list[Key] = []
        for *key, token, digest in await self.session.execute(lock, given):
            written.append((*key, self.rewritten(shelf, tuple(key), token, person), self.index.digest(digest)))
        if not written:
            return
        values = dict(zip((*shelf.key, "sealed", "digests"), map(list, zip(*written, strict=True)), strict=True))
        await self.session.execute(text(shelf.update), values | {"hashes": person.hashes(self.index)})

    def rewritten(self, shelf: ResponseTable, key: Key, token: bytes, person: DataSubject) -> bytes:
        """The sealed answer without a person. One that its key does not open can't be read by anybody, and stays.

        Raises KeyMissing where the key is only not here: an erasure must not pass by what others can read.
        """
        try:
            head, body = shelf.open(self.cipher, key, token)
        except KeyMissing:
            raise
        except DecryptionError:
            return token
        return shelf.seal(self.cipher, key, *without(head, body, person, self.index))
