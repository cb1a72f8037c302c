"""Erasure of what is stored about a user outside of the user's row: stored responses, event replies, audit actors.

The row itself becomes a tombstone or is removed, see `UserService.erase` and `UserService.purge`.
"""

import secrets
from collections.abc import Sequence, Set
from typing import Any, Final
from uuid import UUID

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher, DecryptionError, KeyMissing
from user_service.idempotency.stored_responses import GONE, RESPONSE_TABLES, ResponseTable, RowKey
from user_service.postgres.session import Session
from user_service.postgres.statements import text
from user_service.users.model import User
from user_service.users.privacy.mentions import mention_keys
from user_service.users.privacy.subject_data import BY_ACTOR, ActorNames, DataSubjects, SubjectData

GONE_HEAD: Final = orjson.dumps([GONE, []])
REDACTED_AT_ONCE: Final = 100

# Callers choose the ids of their requests and give reasons, which may contain a name. Trace ids are random numbers and
# stay, and so does the reason of the erasure.
CLEAR_TEXTS: Final = text(
    "UPDATE user_changes SET request_id = '', reason = CASE WHEN type IN ('erased', 'purged') THEN reason END"
    " WHERE user_id = ANY(CAST(:ids AS uuid[])) AND (request_id <> '' OR reason IS NOT NULL)"
)
# No array with an index: an UPDATE of a distributed table that has one ends the server process of Citus 13.2.
ALIAS: Final = "CAST(CAST(:aliases AS text) AS jsonb) ->> actor"
RENAME_ACTORS: Final = (
    text(f"UPDATE user_changes SET actor = {ALIAS} WHERE {BY_ACTOR}"),  # noqa: S608
    text(f"UPDATE imports SET actor = {ALIAS} WHERE {BY_ACTOR}"),  # noqa: S608
)


class Erasure:
    """Erases what is stored about users outside of their rows, in the transaction of `session`."""

    def __init__(self, session: Session, cipher: Cipher, index: BlindIndex) -> None:
        self.session = session
        self.cipher = cipher
        self.index = index

    async def erase(self, users: Sequence[User], actor_names: ActorNames) -> None:
        """Erases users from stored responses and from the audit trail, where a user acted under its `actor_names`.

        All actions of one user get one random alias: they stay one group without a name.
        """
        await self.redact_responses(DataSubjects.from_users(users, self.index))
        await self.session.execute(CLEAR_TEXTS, {"ids": [user.id for user in users]})
        aliases = {name: alias for user in users for alias in [new_alias()] for name in actor_names(user)}
        if aliases:
            values = {"names": list(aliases), "aliases": orjson.dumps(aliases).decode()}
            for statement in RENAME_ACTORS:
                await self.session.execute(statement, values)

    async def redact_responses(self, subjects: DataSubjects) -> None:
        """Removes users from all stored responses. The requests that they belong to are still recognised."""
        for responses in RESPONSE_TABLES:
            keys = await SubjectData(self.session, self.index).response_keys(responses, subjects)
            for start in range(0, len(keys), REDACTED_AT_ONCE):
                await self.redact_rows(responses, keys[start : start + REDACTED_AT_ONCE], subjects)

    async def redact_rows(self, responses: ResponseTable, keys: Sequence[RowKey], subjects: DataSubjects) -> None:
        """Locks these responses, which another erasure may redact as well, and writes them without the users."""
        arrays = dict(zip(responses.key, map(list, zip(*keys, strict=True)), strict=True))
        rows: list[RowKey] = []
        for *key, token, digest in await self.session.execute(text(lock_statement(responses)), arrays):
            rows.append((*key, self.redact_token(responses, tuple(key), token, subjects), self.index.digest(digest)))
        if not rows:
            return
        values = dict(zip((*responses.key, "tokens", "digests"), map(list, zip(*rows, strict=True)), strict=True))
        values["hashes"] = list(subjects.hashes)
        await self.session.execute(text(update_statement(responses)), values)

    def redact_token(self, responses: ResponseTable, key: RowKey, token: bytes, subjects: DataSubjects) -> bytes:
        """The encrypted response without the users. A damaged one, which no key can open, stays as it is.

        Raises KeyMissing where only this process lacks the key: an erasure must not skip what others can read.
        """
        try:
            head, body = responses.open(self.cipher, key, token)
        except KeyMissing:
            raise
        except DecryptionError:
            return token
        return responses.seal(self.cipher, key, *redact(head, body, subjects, self.index))


def new_alias() -> str:
    return f"erased:{secrets.token_hex(8)}"


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


def redact(head: bytes, body: bytes, subjects: DataSubjects, index: BlindIndex) -> tuple[bytes, bytes]:
    """A stored response without some users: unchanged where it says nothing about them.

    The response to a request about one user becomes `GONE`. A batch keeps its results, and loses the caller's `ref` of
    the users' items and of all items that name no user. A find loses the users, and the users' keys.
    """
    document = orjson.loads(body) if body else {}
    ids = set(map(str, subjects.ids))
    if "found" in document:
        redacted = redact_find(document, ids, set(subjects.hashes), index)
    elif "items" in document:
        redacted = redact_batch(document, ids)
    else:
        return (GONE_HEAD, b"") if document.get("id") in ids else (head, body)
    return head, orjson.dumps(redacted) if redacted != document else body


def redact_find(document: dict[str, Any], ids: Set[str], hashes: Set[UUID], index: BlindIndex) -> dict[str, Any]:
    missing = document["missing"]

    def others(emails: Sequence[str] = (), external_ids: Sequence[str] = (), usernames: Sequence[str] = ()) -> bool:
        """Whether a key is none of the users'."""
        return hashes.isdisjoint(mention_keys(emails, external_ids, usernames, index))

    return {
        "found": [user for user in document["found"] if user["id"] not in ids],
        "missing": {
            "ids": missing["ids"],
            "emails": [key for key in missing["emails"] if others(emails=[key])],
            "external_ids": [key for key in missing["external_ids"] if others(external_ids=[key])],
            "usernames": [key for key in missing["usernames"] if others(usernames=[key])],
        },
    }


def redact_batch(document: dict[str, Any], ids: Set[str]) -> dict[str, Any]:
    items = [{**item, "ref": None} if item["id"] is None or item["id"] in ids else item for item in document["items"]]
    return {**document, "items": items}
