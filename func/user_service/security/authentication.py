"""Who is asking. API keys are compared in constant time, and against every key, so that timing tells nothing.

A refusal comes before anything is looked up, so that it tells nothing about users either.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from user_service.errors import Forbidden, Unauthenticated
from user_service.security.tokens import Tokens, VerifiedToken

SCOPES: Final = frozenset(
    {
        "users:read",
        "users:write",
        "users:delete",
        "users:purge",
        "users:erase",
        "cache:manage",
        "events:write",
    }
)
CREDENTIALS: Final = (b"authorization", b"x-api-key")


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who has shown who they are. `name` stands in the audit trail: never a key, never personal.

    `subject` is a token's own `sub`, which may be personal: it finds the user of `/users/me` and goes nowhere else.
    """

    kind: str
    name: str
    scopes: frozenset[str]
    subject: str | None = field(default=None, repr=False)

    def require(self, scope: str) -> None:
        """Raises Forbidden when the principal lacks a scope."""
        if scope not in self.scopes:
            raise Forbidden(f"This needs the scope {scope}.")


NETWORK: Final = Principal("network", "network", frozenset({"events:write"}))


class Authenticator:
    """Knows principals by their credentials. Where `anybody` is given, all are that principal."""

    def __init__(
        self, api_keys: Sequence[str], tokens: Tokens, *, name_key: bytes, anybody: Principal | None = None
    ) -> None:
        self.tokens = tokens
        self.anybody = anybody
        self.trust(api_keys, name_key=name_key)

    def trust(self, api_keys: Sequence[str], *, name_key: bytes) -> None:
        """Goes on with these keys, from one request to the next."""
        self.principals = [(key.encode(), principal_of_key(key)) for key in api_keys]
        self.name_key = name_key

    def find(self, headers: Mapping[bytes, bytes]) -> Principal | None:
        """The principal of a request's headers (lower-case names); None for a token that is still to be verified.

        Raises Unauthenticated.
        """
        if self.anybody is not None:
            return self.anybody
        presented = credential_of(headers)
        found = None
        for key, principal in self.principals:
            if hmac.compare_digest(key, presented):
                found = principal
        if found is None and (verified := self.tokens.find(presented)) is not None:
            found = self.principal_of_token(verified)
        if found is None and presented.count(b".") != 2:
            raise Unauthenticated("The API key is not one of this service's.")
        return found

    async def verify(self, headers: Mapping[bytes, bytes]) -> Principal:
        """The principal of a token that `find` does not know. Raises Unauthenticated, IssuerUnavailable."""
        return self.principal_of_token(await self.tokens.verify(credential_of(headers)))

    def principal_of_token(self, token: VerifiedToken) -> Principal:
        """The name is a keyed hash: the trail tells subjects apart and names none of them."""
        name = self.name_of(token.kind, token.issuer, token.subject)
        return Principal(token.kind, name, token.scopes & SCOPES, token.subject)

    def names_of(self, subject: str) -> list[str]:
        """The names that a subject has in the audit trail: one for each issuer of users' tokens."""
        return [self.name_of(trust.kind, trust.issuer, subject) for trust in self.tokens.trusts]

    def name_of(self, kind: str, issuer: str, subject: str) -> str:
        identity = f"{issuer}\0{subject}".encode()
        return f"{kind}:{hmac.digest(self.name_key, identity, 'sha256').hex()[:16]}"


def refuse_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises Unauthenticated when a credential is sent twice: proxies and services would not agree on which counts."""
    names = [name for name, _ in headers]
    if any(names.count(name) > 1 for name in CREDENTIALS):
        raise Unauthenticated("Send one X-API-Key or one Authorization header, not several.")


def credential_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The key or token of a request. Raises Unauthenticated where there is none, or two that differ."""
    key = headers.get(b"x-api-key")
    authorization = headers.get(b"authorization")
    token = bearer_token(authorization) if authorization is not None else b""
    if key and token and not hmac.compare_digest(key, token):
        raise Unauthenticated("X-API-Key and Authorization name different credentials; send one of them.")
    if presented := key or token:
        return presented
    raise Unauthenticated("Send an API key in X-API-Key, or an API key or a token in Authorization: Bearer.")


def bearer_token(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def principal_of_key(key: str) -> Principal:
    """All scopes; the name is a fingerprint, so that the audit trail tells rotated keys apart."""
    return Principal("api_key", f"api-key:{hashlib.sha256(key.encode()).hexdigest()[:8]}", SCOPES)
