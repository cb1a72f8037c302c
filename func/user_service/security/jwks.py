"""The public keys of an issuer (JWKS, RFC 7517), cached and refreshed.

A cached key is used at once; a set older than five minutes is refreshed in the background. A token with an unknown
key id waits for a refresh; there is at most one in ten seconds for all tokens. While the issuer can't be read, its
cached keys are used for up to a day.
"""

import asyncio
from http.client import HTTPException
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from user_service.errors import IssuerUnavailable
from user_service.observability.logging import log
from user_service.security.downloads import download

KEY_REFRESH_SECONDS: Final = 300.0
MIN_FETCH_INTERVAL_SECONDS: Final = 10.0
PAUSE_AFTER_FAILURE_SECONDS: Final = 2.0
MAX_KEY_AGE_SECONDS: Final = 86_400.0
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
# The signature algorithms of each kind of key. `none` and the HMACs are left out: with an HMAC, the public key would be
# the secret.
ALGORITHMS: Final = {
    ("RSA", None): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}


class Key(NamedTuple):
    """A public key, and the algorithms that it may be used with."""

    public: Any
    algorithms: frozenset[str]


class KeySet:
    """The keys behind one URL."""

    def __init__(
        self,
        url: str,
        ca_file: Path | None = None,
        token_file: Path | None = None,
        *,
        refresh_seconds: float = KEY_REFRESH_SECONDS,
        pause_seconds: float = MIN_FETCH_INTERVAL_SECONDS,
    ) -> None:
        self.url = url
        self.ca_file = ca_file
        self.token_file = token_file
        self.refresh_seconds = refresh_seconds
        self.pause_seconds = pause_seconds
        self.keys: dict[str, Key] = {}
        self.read_at = -MAX_KEY_AGE_SECONDS
        self.refresh_allowed_at = 0.0
        self.failed = False
        self.refreshing: asyncio.Task[None] | None = None

    async def find(self, key_id: str, algorithm: str) -> Any:
        """The public key of an id for an algorithm, or None. Raises IssuerUnavailable while the set can't be read."""
        if key_id not in self.keys or self.is_too_old:
            await self.refresh_and_wait()
        elif monotonic() - self.read_at >= self.refresh_seconds:
            self.refresh()
        key = self.keys.get(key_id)
        if self.failed and (key is None or self.is_too_old):
            raise IssuerUnavailable
        return key.public if key is not None and algorithm in key.algorithms else None

    @property
    def is_too_old(self) -> bool:
        return monotonic() - self.read_at >= MAX_KEY_AGE_SECONDS

    async def refresh_and_wait(self) -> None:
        refreshing = self.refresh()
        if refreshing is not None:
            await asyncio.wait([refreshing])

    def refresh(self) -> "asyncio.Task[None] | None":
        """The refresh that is under way or begins now; None in the pause after the last one."""
        if self.refreshing is None and monotonic() >= self.refresh_allowed_at:
            self.refreshing = asyncio.create_task(self.read())
        return self.refreshing

    async def read(self) -> None:
        try:
            document = await asyncio.to_thread(download, self.url, self.ca_file, self.token_file)
            self.keys = parse_jwks(document)
            self.read_at, self.failed = monotonic(), False
        except (OSError, ValueError, HTTPException) as error:
            self.failed = True
            host, reason = urlsplit(self.url).hostname, type(error).__name__
            log.warning("the keys of an issuer can't be read", extra={"host": host, "reason": reason})
        finally:
            pause = PAUSE_AFTER_FAILURE_SECONDS if self.failed else self.pause_seconds
            self.refresh_allowed_at = monotonic() + min(pause, self.pause_seconds)
            self.refreshing = None


def parse_jwks(document: bytes) -> dict[str, Key]:
    """The usable keys of a JWK set by id. Raises ValueError when there are none."""
    content = orjson.loads(document)
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    keys = {entry["kid"]: key for entry in entries[:MAX_KEYS] if (key := parse_key(entry)) is not None}
    if not keys:
        raise ValueError("a JWK set without a usable key")
    return keys


def parse_key(entry: Any) -> Key | None:
    """The key of a JWK; None for a key that is not for signatures, is private, is weak, or is of an unknown kind."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or "d" in entry:
        return None
    kind, curve = entry.get("kty"), entry.get("crv")
    algorithms = ALGORITHMS.get((kind, curve)) if isinstance(kind, str) and isinstance(curve, str | None) else None
    if algorithms is None or entry.get("use", "sig") != "sig":
        return None
    if "alg" in entry:
        algorithms &= {entry["alg"]} if isinstance(entry["alg"], str) else set()
    if not algorithms:
        return None
    try:
        public = jwt.PyJWK(entry, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
        return None
    return Key(public, algorithms)
