"""Tokens (JWT, RFC 7519) of the issuers that this service trusts.

What was verified is remembered for a minute, by hash, never beyond its own end. Nothing here imports PyJWT: it is
loaded for the first token that comes.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final

from user_service.errors import Unauthenticated
from user_service.settings import Settings

if TYPE_CHECKING:
    from user_service.security.jwt_verifier import JwtVerifier

MAX_TOKEN_BYTES: Final = 8 * 1024
KEPT_SECONDS: Final = 60.0
MAX_KEPT: Final = 4096
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An issuer, the audience that its tokens must name, and where its public keys are.

    `subjects` are patterns of the `sub` that may come; `grants` are scopes that every token of this issuer has, in
    place of those that it claims.
    """

    kind: str
    issuer: str
    audience: str
    jwks_url: str
    ca_file: Path | None = None
    token_file: Path | None = None
    subjects: tuple[str, ...] = ("*",)
    grants: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a token says, once it is believed. `expires_at` is in seconds since 1970."""

    kind: str
    issuer: str
    subject: str
    scopes: frozenset[str]
    expires_at: float


class Tokens:
    """Verifies tokens of these issuers."""

    def __init__(self, trusts: Sequence[TrustedIssuer]) -> None:
        self.trusts = trusts
        self.rules: JwtVerifier | None = None
        self.loading = asyncio.Lock()
        self.kept: dict[bytes, tuple[float, VerifiedToken]] = {}

    def find(self, token: bytes) -> VerifiedToken | None:
        """A token that was verified a moment ago."""
        if not self.kept or (kept := self.kept.get(digest_of(token))) is None:
            return None
        return kept[1] if time() < kept[0] else None

    async def verify(self, token: bytes) -> VerifiedToken:
        """What a token says. Raises Unauthenticated, and IssuerUnavailable when it can't be checked now."""
        if not self.trusts:
            raise Unauthenticated("This service takes API keys here; no issuer of tokens is set up.")
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        verified = await (self.rules or await self.load()).verify(token)
        self.keep(token, verified)
        return verified

    async def load(self) -> "JwtVerifier":
        async with self.loading:
            if self.rules is None:
                self.rules = await asyncio.to_thread(build_rules, self.trusts)
        return self.rules

    def keep(self, token: bytes, verified: VerifiedToken) -> None:
        if len(self.kept) >= MAX_KEPT:
            now = time()
            self.kept = {digest: kept for digest, kept in self.kept.items() if now < kept[0]}
        if len(self.kept) < MAX_KEPT:
            self.kept[digest_of(token)] = (min(time() + KEPT_SECONDS, verified.expires_at), verified)


def digest_of(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def build_rules(trusts: Sequence[TrustedIssuer]) -> "JwtVerifier":
    from user_service.security.jwt_verifier import JwtVerifier

    return JwtVerifier(trusts)


def user_trusts(settings: Settings) -> list[TrustedIssuer]:
    """The issuer of people's and services' tokens, where there is one."""
    if settings.jwt_issuer is None or settings.jwt_audience is None or settings.jwt_jwks_url is None:
        return []
    return [
        TrustedIssuer("jwt", settings.jwt_issuer, settings.jwt_audience, settings.jwt_jwks_url, settings.jwks_ca_file)
    ]


def broker_trusts(settings: Settings) -> list[TrustedIssuer]:
    """The issuer of the broker's tokens, where there is one: they may bring events, and nothing else."""
    if settings.events_audience is None:
        return []
    return [
        TrustedIssuer(
            "broker",
            settings.events_issuer,
            settings.events_audience,
            settings.events_jwks_url,
            settings.jwks_ca_file or of_the_pod("ca.crt"),
            settings.events_jwks_token_file or of_the_pod("token"),
            settings.events_subjects,
            frozenset({"events:write"}),
        )
    ]


def of_the_pod(name: str) -> Path | None:
    """A file of the pod's service account, where one is mounted: the cluster shows its keys to those who have it."""
    path = SERVICE_ACCOUNT / name
    return path if path.exists() else None
