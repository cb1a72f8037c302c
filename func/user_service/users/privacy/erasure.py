"""Erasure of what is stored about a user outside of the user's row: stored responses, event replies, audit actors.

The row itself becomes a tombstone, see `UserService.erase`.
"""

import secrets
from collections.abc import Collection, Sequence
from typing import Any, Final

import orjson
from sqlalchemy import text

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher, DecryptionError, KeyMissing
from user_service.idempotency.stored_responses import GONE, RESPONSE_TABLES, ResponseTable, RowKey
from user_service.postgres.session import Session
from user_service.users.model import User
from user_service.users.privacy.mentions import mention_keys
from user_service.users.privacy.subject_data import CHANGES_BY_ACTOR, DataSubject, SubjectData

GONE_HEAD: Final = orjson.dumps([GONE, []])
REDACTED_AT_ONCE: Final = 100

# Callers choose the ids of their requests, which may contain a name. Trace ids are random numbers and stay.
CLEAR_REQUEST_IDS: Final = text("UPDATE user_changes SET request_id = '' WHERE user_id = :user_id AND request_id <> ''")
RENAME_ACTOR: Final = (
    text(f"UPDATE user_changes SET actor = :alias WHERE {CHANGES_BY_ACTOR}"),  # noqa: S608
    text("UPDATE imports SET actor = :alias WHERE actor = ANY(CAST(:names AS text[]))"),
)


class Erasure:
    """Erases what is stored about users outside of their rows, in the transaction of `session`."""

    def __init__(self, session: Session, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.cipher = cipher
        self.index = index

    async def erase(self, user: User, actor_names: Collection[str]) -> None:
        """Erases a user from stored responses and from the audit trail, where the user acted under `actor_names`.

        All of the user's own actions get one random alias: they stay one group without a name.
        """
        await self.redact_responses(user)
        await self.session.execute(CLEAR_REQUEST_IDS, {"user_id": user.id})
        if actor_names:
            values = {"alias": f"erased:{secrets.token_hex(8)}", "names": list(actor_names)}
            for statement in RENAME_ACTOR:
                await self.session.execute(statement, values)

    async def redact_responses(self, user: User) -> None:
        """Removes a user from all stored responses. The requests that they belong to are still recognised."""
        subject = DataSubject.from_user(user, self.index)
        for responses in RESPONSE_TABLES:
            keys = await SubjectData(self.session, self.index).response_keys(responses, subject)
            for start in range(0, len(keys), REDACTED_AT_ONCE):
                await self.redact_rows(responses, keys[start : start + REDACTED_AT_ONCE], subject)

    async def redact_rows(self, responses: ResponseTable, keys: Sequence[RowKey], subject: DataSubject) -> None:
        """Locks these responses, which another erasure may redact as well, and writes them without the user."""
        arrays = dict(zip(responses.key, map(list, zip(*keys, strict=True)), strict=True))
        rows: list[RowKey] = []
        for *key, token, digest in await self.session.execute(text(lock_statement(responses)), arrays):
            rows.append((*key, self.redact_token(responses, tuple(key), token, subject), self.index.digest(digest)))
        if not rows:
            return
        values = dict(zip((*responses.key, "tokens", "digests"), map(list, zip(*rows, strict=True)), strict=True))
        values["hashes"] = list(subject.hashes)
        await self.session.execute(text(update_statement(responses)), values)

    def redact_token(self, responses: ResponseTable, key: RowKey, token: bytes, subject: DataSubject) -> bytes:
        """The encrypted response without the user. A damaged one, which no key can open, stays as it is.

        Raises KeyMissing where only this process lacks the key: an erasure must not skip what others can read.
        """
        try:
            head, body = responses.open(self.cipher, key, token)
        except KeyMissing:
            raise
        except DecryptionError:
            return token
        return responses.seal(self.cipher, key, *redact(head, body, subject, self.index))


def lock_statement(responses: ResponseTable) -> str:
    return (
        f"SELECT {responses.key_columns}, {responses.column}, {responses.digest_column}"  # noqa: S608
        f" FROM {responses.table} JOIN {responses.key_rows} USING ({responses.key_columns})"
        f" ORDER BY {responses.key_columns} FOR UPDATE OF {responses.table}"
    )


def update_statement(responses: ResponseTable) -> str:
    """Writes encrypted responses and digests, and removes `hashes` from the mentions."""
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in responses.key.items())
    same = " AND ".join(f"{responses.table}.{name} = v.{name}" for name in responses.key)
    return (
        f"UPDATE {responses.table} SET {responses.column} = v.token, {responses.digest_column} = v.digest, mentions ="  # noqa: S608
        " (SELECT array_agg(m) FROM unnest(mentions) AS m WHERE m <> ALL(CAST(:hashes AS uuid[])))"
        f" FROM unnest({arrays}, CAST(:tokens AS bytea[]), CAST(:digests AS bytea[]))"
        f" AS v({responses.key_columns}, token, digest)"
        f" WHERE {same}"
    )


def redact(head: bytes, body: bytes, subject: DataSubject, index: BlindIndex) -> tuple[bytes, bytes]:
    """A stored response without a user: unchanged where it says nothing about the user.

    The response to a request about one user becomes `GONE`. A batch keeps its results, and loses the caller's `ref` of
    the user's items and of all items that name no user. A find loses the user, and the user's keys.
    """
    document = orjson.loads(body) if body else {}
    if "found" in document:
        redacted = redact_find(document, subject, index)
    elif "items" in document:
        redacted = redact_batch(document, subject)
    else:
        return (GONE_HEAD, b"") if document.get("id") == str(subject.id) else (head, body)
    return head, orjson.dumps(redacted) if redacted != document else body


def redact_find(document: dict[str, Any], subject: DataSubject, index: BlindIndex) -> dict[str, Any]:
    missing = document["missing"]

    def others(emails: Sequence[str] = (), external_ids: Sequence[str] = (), usernames: Sequence[str] = ()) -> bool:
        """Whether a key is not the subject's."""
        return not set(mention_keys(emails, external_ids, usernames, index)).intersection(subject.hashes)

    return {
        "found": [user for user in document["found"] if user["id"] != str(subject.id)],
        "missing": {
            "ids": missing["ids"],
            "emails": [key for key in missing["emails"] if others(emails=[key])],
            "external_ids": [key for key in missing["external_ids"] if others(external_ids=[key])],
            "usernames": [key for key in missing["usernames"] if others(usernames=[key])],
        },
    }


def redact_batch(document: dict[str, Any], subject: DataSubject) -> dict[str, Any]:
    redacted_ids = (None, str(subject.id))
    items = [{**item, "ref": None} if item["id"] in redacted_ids else item for item in document["items"]]
    return {**document, "items": items}
