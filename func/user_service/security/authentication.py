"""Authentication of requests by API key or token.

The time of a comparison does not depend on the keys (see `ApiKeys`). A request is refused before any user is looked up,
so that a refusal does not depend on users either.
"""

import hmac
from collections.abc import Iterable, Mapping
from typing import Final

from user_service.errors import Unauthenticated
from user_service.security.api_keys import ApiKeys
from user_service.security.issuers import VerifiedToken
from user_service.security.principals import Principal
from user_service.security.tokens import Tokens
from user_service.values.api_keys import SCOPES

CREDENTIALS: Final = (b"authorization", b"x-api-key")


class Authenticator:
    """Finds the principal of a request. With `everyone`, that is the principal of every request."""

    def __init__(
        self, api_keys: ApiKeys, tokens: Tokens, *, name_key: bytes, everyone: Principal | None = None
    ) -> None:
        self.api_keys = api_keys
        self.tokens = tokens
        # The names of tokens' subjects are made under this key.
        self.name_key = name_key
        self.everyone = everyone

    def find(self, headers: Mapping[bytes, bytes]) -> Principal | None:
        """The principal of a request's headers, whose names are in lower case; None for a token to be verified.

        Raises Unauthenticated.
        """
        if self.everyone is not None:
            return self.everyone
        credential = read_credential(headers)
        found = self.api_keys.find(credential)
        if found is None and (verified := self.tokens.get_cached(credential)) is not None:
            found = self.token_principal(verified)
        if found is None and credential.count(b".") != 2:
            raise Unauthenticated("The API key is not known to this service.")
        return found

    async def verify(self, headers: Mapping[bytes, bytes]) -> Principal:
        """The principal of a token for which `find` returned None. Raises Unauthenticated, IssuerUnavailable."""
        return self.token_principal(await self.tokens.verify(read_credential(headers)))

    def token_principal(self, token: VerifiedToken) -> Principal:
        """Its name is a keyed hash, so that the audit trail tells subjects apart without naming them."""
        name = self.hash_subject(token.kind, token.issuer, token.subject)
        return Principal(token.kind, name, token.scopes & SCOPES, token.subject)

    def subject_names(self, subject: str) -> list[str]:
        """The names that a subject has in the audit trail: one for each issuer of users' tokens."""
        return [self.hash_subject(issuer.kind, issuer.issuer, subject) for issuer in self.tokens.issuers]

    def hash_subject(self, kind: str, issuer: str, subject: str) -> str:
        identity = f"{issuer}\0{subject}".encode()
        return f"{kind}:{hmac.digest(self.name_key, identity, 'sha256').hex()[:16]}"


def refuse_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises Unauthenticated when a credential header is repeated: a proxy could have checked another one."""
    names = [name for name, _ in headers]
    if any(names.count(name) > 1 for name in CREDENTIALS):
        raise Unauthenticated("Send one X-API-Key header or one Authorization header, not several.")


def read_credential(headers: Mapping[bytes, bytes]) -> bytes:
    """The key or token of a request. Raises Unauthenticated when there is none, or when there are two that differ."""
    key = headers.get(b"x-api-key")
    authorization = headers.get(b"authorization")
    token = bearer_token(authorization) if authorization is not None else b""
    if key and token and not hmac.compare_digest(key, token):
        raise Unauthenticated("X-API-Key and Authorization hold different credentials; send one of them.")
    if credential := key or token:
        return credential
    raise Unauthenticated("Send an API key in X-API-Key, or an API key or a token in Authorization: Bearer.")


def bearer_token(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
