"""Finds what is left of a person: in every column of every table, opened where a key opens it, and in Redis."""

import base64
import hashlib
import json
from typing import Any
from uuid import UUID

import asyncpg
from redis.asyncio import Redis

from support.settings import ENCRYPTION_KEY
from user_service.cache.redis import VALUE_HEAD_BYTES
from user_service.encryption.blind_index import BlindIndex, unpack_term
from user_service.encryption.cipher import Cipher, DecryptionError
from user_service.encryption.keyring import derive_key
from user_service.values.encryption_keys import parse_encryption_keys

CIPHER = Cipher(parse_encryption_keys(ENCRYPTION_KEY))
INDEX = BlindIndex(derive_key(base64.b64decode(ENCRYPTION_KEY.partition(":")[2]), b"blind-index"))
PURPOSES = (b"users.personal", b"idempotency_keys.answer", b"inbox.reply")
PERSON: dict[str, Any] = {
    "external_id": "crm-wolpertinger",
    "email": "Balthasar.Wolpertinger@Tatzelwurm.example",
    "aliases": ["bw@zwiesel.example", "b.w@kryptid.example"],
    "username": "Rauracherl",
    "given_name": "Balthasarius",
    "family_name": "Wolpertingerin",
    "display_name": "Elwetritsch",
    "phone": "+449812345670",
    "locale": "gsw-CH",
    "timezone": "Antarctica/Troll",
    "preferences": {"allergy": "Rasselbock"},
    "metadata": {"nickname": "Dilldapp"},
}
WORDS = (
    "wolpertinger",
    "tatzelwurm",
    "zwiesel",
    "kryptid",
    "rauracherl",
    "balthasar",
    "elwetritsch",
    "9812345670",
    "gsw-ch",
    "antarctica",
    "rasselbock",
    "dilldapp",
)


def words_in(content: bytes) -> set[str]:
    """The person's values that show, as text in any case, in base64 or in hexadecimal."""
    low = content.lower()
    found = set()
    for word in WORDS:
        forms = [word.encode(), word.encode().hex().encode()]
        inner = [base64.b64encode(b"x" * shift + word.encode())[4:-4].lower() for shift in range(3)]
        # A short word has no inside that would tell it from chance.
        forms += [form for form in inner if len(form) >= 8]
        found |= {word for form in forms if form in low}
    return found


def hashes_of_person() -> set[bytes]:
    """What the database knows the person by."""
    indexes = {INDEX.email(email) for email in (PERSON["email"].lower(), *PERSON["aliases"])}
    indexes |= {INDEX.username(PERSON["username"]), INDEX.external_id(PERSON["external_id"])}
    names = (PERSON["given_name"], PERSON["family_name"], PERSON["display_name"])
    terms = INDEX.user_terms(names, PERSON["metadata"])
    terms |= {unpack_term(index) for index in indexes}
    return indexes | {str(term).encode() for term in (*terms, INDEX.phone(PERSON["phone"]))}


def opened(table: str, row: asyncpg.Record, token: bytes) -> bytes:
    """What a sealed value of a row says; nothing where no key opens it."""
    names = [value.bytes for value in row.values() if isinstance(value, UUID)]
    names += [value for value in row.values() if isinstance(value, bytes) and len(value) == 16]
    if table == "inbox":
        names.append(
            hashlib.sha256(json.dumps([row["source"], row["id"]], separators=(",", ":")).encode()).digest()[:16]
        )
    for purpose in PURPOSES:
        for name in names:
            try:
                return CIPHER.open(token, purpose=purpose, user_id=name)
            except DecryptionError:
                continue
    return b""


def shown(table: str, row: asyncpg.Record) -> list[bytes]:
    """Each value of a row as bytes, and what is sealed in it."""
    found: list[bytes] = []
    for value in row.values():
        several = value if isinstance(value, list) else [value]
        for one in several:
            if isinstance(one, bytes):
                found += [one, opened(table, row, one)]
            elif isinstance(one, UUID):
                found += [one.bytes, str(one).encode()]
            else:
                found.append(str(one).encode())
    return found


async def leftovers(database_url: str) -> dict[str, set[Any]]:
    """By column: the person's words and hashes that are in it."""
    connection = await asyncpg.connect(database_url)
    hashes = hashes_of_person()
    found: dict[str, set[Any]] = {}
    try:
        tables = await connection.fetch(
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'public'"
        )
        for (table,) in tables:
            for row in await connection.fetch(f'SELECT * FROM "{table}"'):
                values = shown(table, row)
                traces = set().union(*map(words_in, values)) | (hashes & set(values))
                if traces:
                    found[table] = found.get(table, set()) | traces
    finally:
        await connection.close()
    return found


async def in_redis(url: str) -> set[str]:
    """The person's words in keys and values, opened."""
    redis = Redis.from_url(url)
    found: set[str] = set()
    async for key in redis.scan_iter(match="*"):
        found |= words_in(key)
        if await redis.type(key) == b"string":
            value = await redis.get(key) or b""
            found |= words_in(value) | words_in(unsealed(key, value))
    await redis.aclose()
    return found


def unsealed(key: bytes, value: bytes) -> bytes:
    head, sealed = value[:VALUE_HEAD_BYTES], value[VALUE_HEAD_BYTES:]
    try:
        user_id = bytes.fromhex(key[-32:].decode())
        return CIPHER.open(sealed, purpose=b"cache" + head, user_id=user_id)
    except (DecryptionError, ValueError):
        return b""
