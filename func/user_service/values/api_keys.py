"""API keys with names as API_KEYS describes them: by their SHA-256, with their scopes and the end of their time."""

import hashlib
import re
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

SCOPES: Final = frozenset(
    {
        "users:read",
        "users:write",
        "users:delete",
        "users:purge",
        "users:erase",
        "cache:manage",
        "events:write",
        "audit:read",
        "scim",
    }
)
# Patterns are compiled, and modules for times imported, when there is a key: not at the start of a process without one.
NAME: Final = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
# The names of the keys of INTERNAL_API_KEY, see `key_fingerprint`.
RESERVED_NAME: Final = r"[0-9a-f]{8}"
SHA256: Final = r"[0-9a-f]{64}"
MEMBERS: Final = frozenset({"name", "sha256", "scopes", "expires"})


class NamedKey(NamedTuple):
    """A key of API_KEYS. Several keys can have one name, so that a key can be replaced by another one."""

    name: str
    digest: bytes
    scopes: frozenset[str]
    expires: datetime | None = None


def hash_key(key: bytes) -> bytes:
    """The SHA-256 of a key. Keys are random, so that neither a salt nor a slow hash would add anything."""
    return hashlib.sha256(key).digest()


def key_fingerprint(digest: bytes) -> str:
    """Eight digits that tell keys apart."""
    return digest.hex()[:8]


def parse_api_keys(text: str) -> tuple[NamedKey, ...]:
    """The keys of API_KEYS, in its order. Raises ValueError, which names the entry and quotes no value but its name."""
    try:
        entries = orjson.loads(text)
    except orjson.JSONDecodeError:
        entries = None
    if not isinstance(entries, list):
        raise ValueError("expected a list in JSON, as `user-service keys api NAME --scopes SCOPES` prints it")
    keys = []
    for position, entry in enumerate(entries, start=1):
        try:
            keys.append(parse_entry(entry))
        except ValueError as error:
            raise ValueError(f"entry {position}: {error}") from None
    digests = [key.digest for key in keys]
    for position, digest in enumerate(digests):
        if (first := digests.index(digest)) < position:
            raise ValueError(f"entry {position + 1}: the key of entry {first + 1} again; remove one of them")
    return tuple(keys)


def parse_entry(entry: Any) -> NamedKey:
    if not isinstance(entry, dict) or not {"name", "sha256", "scopes"} <= entry.keys() <= MEMBERS:
        raise ValueError("expected an object with name, sha256, scopes and, if it ends, expires")
    sha256, scopes, name = entry["sha256"], entry["scopes"], check_name(entry["name"])
    if not isinstance(sha256, str) or not re.fullmatch(SHA256, sha256):
        raise ValueError(f"{name}: sha256 must be 64 hexadecimal digits in lower case, and never the key itself")
    if not isinstance(scopes, list):
        raise ValueError(f"{name}: scopes must be a list")
    return NamedKey(name, bytes.fromhex(sha256), parse_scopes(scopes), parse_expiry(name, entry.get("expires")))


def check_name(name: Any) -> str:
    """The name. Raises ValueError for one that a key can't have."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ValueError(
            "a name has up to 63 characters a-z, 0-9, dot, underscore or hyphen, with a letter or digit at both ends"
        )
    if re.fullmatch(RESERVED_NAME, name):
        raise ValueError(f"{name}: eight hexadecimal digits are the name of a key of INTERNAL_API_KEY; use another one")
    return name


def parse_scopes(scopes: list[Any]) -> frozenset[str]:
    """Raises ValueError for none, or for one that there is not."""
    unknown = [scope for scope in scopes if not isinstance(scope, str) or scope not in SCOPES]
    if unknown or not scopes:
        raise ValueError(f"scopes must be some of {', '.join(sorted(SCOPES))}")
    return frozenset(scopes)


def parse_expiry(name: str, expires: Any) -> datetime | None:
    from user_service.values.timestamps import parse_rfc3339

    if expires is None:
        return None
    try:
        return parse_rfc3339(expires)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expires must be a time in RFC 3339 format, such as 2027-01-01T00:00:00Z") from None


def format_api_keys(keys: tuple[NamedKey, ...]) -> str:
    """The value of API_KEYS."""
    from user_service.values.timestamps import format_rfc3339

    entries = [
        {"name": key.name, "sha256": key.digest.hex(), "scopes": sorted(key.scopes)}
        | ({} if key.expires is None else {"expires": format_rfc3339(key.expires)})
        for key in keys
    ]
    return orjson.dumps(entries).decode()
