"""Tokens (JWT, RFC 7519) of trusted issuers, with a cache of those that were verified.

A verified token is cached by its hash for a minute, and never after it expires. PyJWT is imported when the first token
is verified.
"""

import hashlib
from collections.abc import Sequence
from time import time
from typing import TYPE_CHECKING, Final

from user_service.errors import Unauthenticated
from user_service.security.issuers import TrustedIssuer, VerifiedToken
from user_service.values.deferred import Deferred

if TYPE_CHECKING:
    from user_service.security.jwt_verifier import JwtVerifier

MAX_TOKEN_BYTES: Final = 8 * 1024
CACHE_SECONDS: Final = 60.0
MAX_CACHED: Final = 4096


class Tokens:
    """Verifies tokens of these issuers."""

    def __init__(self, issuers: Sequence[TrustedIssuer]) -> None:
        self.issuers = issuers
        self.verifier = Deferred(self.build_verifier)
        # The time until which a token is cached, and the token, by hash.
        self.cached: dict[bytes, tuple[float, VerifiedToken]] = {}

    def get_cached(self, token: bytes) -> VerifiedToken | None:
        """A token that was verified less than a minute ago; None for any other."""
        if not self.cached or (found := self.cached.get(hash_token(token))) is None:
            return None
        until, verified = found
        return verified if time() < until else None

    async def verify(self, token: bytes) -> VerifiedToken:
        """Verifies and caches a token. Raises Unauthenticated; IssuerUnavailable while its keys can't be read."""
        if not self.issuers:
            raise Unauthenticated("This endpoint accepts API keys only: no token issuer is configured.")
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        verifier = await self.verifier.get()
        verified = await verifier.verify(token)
        self.cache(token, verified)
        return verified

    def cache(self, token: bytes, verified: VerifiedToken) -> None:
        if len(self.cached) >= MAX_CACHED:
            now = time()
            self.cached = {digest: entry for digest, entry in self.cached.items() if now < entry[0]}
        if len(self.cached) < MAX_CACHED:
            self.cached[hash_token(token)] = (min(time() + CACHE_SECONDS, verified.expires_at), verified)

    def build_verifier(self) -> "JwtVerifier":
        from user_service.security.jwt_verifier import JwtVerifier

        return JwtVerifier(self.issuers)


def hash_token(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
