"""Verification of tokens: RFC 7519, with the best practices of RFC 8725."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import jwt

from user_service.errors import Unauthenticated
from user_service.security.issuers import TrustedIssuer, VerifiedToken
from user_service.security.jwks import KeySet

LEEWAY_SECONDS: Final = 30
MAX_SUBJECT: Final = 255
MAX_KEY_ID: Final = 255
TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
SCOPE_CLAIMS: Final = ("scope", "scp", "scopes")
REQUIRED_CLAIMS: Final = ("exp", "iss", "aud", "sub")
# The refusals that have a detail of their own; every other one is NOT_VALID.
DETAILS: Final[dict[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidAudienceError: "The token is for another audience.",
    jwt.InvalidIssuerError: "The token's issuer is not trusted here.",
    jwt.MissingRequiredClaimError: f"The token lacks one of the claims {', '.join(REQUIRED_CLAIMS)}.",
    jwt.InvalidSignatureError: "The token's signature is not valid.",
}
NOT_VALID: Final = "The token is not valid."
# PyJWT lets some exceptions of the parsers through that it uses for the untrusted text.
MALFORMED: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class JwtVerifier:
    """Verifies tokens with the key sets of the trusted issuers."""

    def __init__(self, issuers: Sequence[TrustedIssuer]) -> None:
        self.trusted = [(issuer, KeySet(issuer.jwks_url, issuer.ca_file, issuer.token_file)) for issuer in issuers]

    async def verify(self, token: bytes) -> VerifiedToken:
        """Raises Unauthenticated, IssuerUnavailable."""
        key_id, algorithm, claimed_issuer = read_unverified(token)
        refusal = Unauthenticated(DETAILS[jwt.InvalidIssuerError])
        for issuer, keys in self.trusted:
            if issuer.issuer == claimed_issuer:
                try:
                    return verify_claims(token, issuer, await keys.find(key_id, algorithm), algorithm)
                except Unauthenticated as error:
                    refusal = error
        raise refusal


def read_unverified(token: bytes) -> tuple[str, str, str]:
    """The key id, the algorithm and the issuer that a token claims. Raises Unauthenticated."""
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except MALFORMED:
        raise Unauthenticated(NOT_VALID) from None
    key_id, algorithm, kind, issuer = header.get("kid"), header.get("alg"), header.get("typ", "JWT"), claims.get("iss")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID:
        raise Unauthenticated("The token names no key (`kid`).")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise Unauthenticated("The token's type (`typ`) is neither JWT nor at+jwt.")
    if not isinstance(algorithm, str) or not isinstance(issuer, str):
        raise Unauthenticated(NOT_VALID)
    return key_id, algorithm, issuer


def verify_claims(token: bytes, issuer: TrustedIssuer, key: Any, algorithm: str) -> VerifiedToken:
    """The claims of a token, after its signature and claims were checked. Raises Unauthenticated."""
    if key is None:
        raise Unauthenticated("No key of the issuer has the token's key id (`kid`) and allows its algorithm (`alg`).")
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=issuer.audience,
            issuer=issuer.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": list(REQUIRED_CLAIMS), "enforce_minimum_key_length": True},
        )
        expires_at = float(claims["exp"])
    except MALFORMED as error:
        raise Unauthenticated(DETAILS.get(type(error), NOT_VALID)) from None
    subject = claims["sub"]
    if not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise Unauthenticated(f"The token's subject is not 1 to {MAX_SUBJECT} printable characters.")
    if not any(fnmatchcase(subject, pattern) for pattern in issuer.subjects):
        raise Unauthenticated("The token's subject is not accepted here.")
    scopes = issuer.grants if issuer.grants is not None else read_scopes(claims)
    return VerifiedToken(issuer.kind, issuer.issuer, subject, scopes, expires_at)


def read_scopes(claims: dict[str, Any]) -> frozenset[str]:
    """The scopes of `scope`, `scp` and `scopes`: each a list, or one string separated by spaces."""
    scopes: set[str] = set()
    for name in SCOPE_CLAIMS:
        value = claims.get(name)
        if isinstance(value, str):
            scopes.update(value.split())
        elif isinstance(value, list):
            scopes.update(scope for scope in value if isinstance(scope, str))
    return frozenset(scopes)
