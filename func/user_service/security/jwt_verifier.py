"""What a token must be to be believed: RFC 7519 under the advice of RFC 8725."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import jwt

from user_service.errors import Unauthenticated
from user_service.security.jwks import KeySet
from user_service.security.tokens import TrustedIssuer, VerifiedToken

LEEWAY_SECONDS: Final = 30
MAX_SUBJECT: Final = 255
MAX_KEY_ID: Final = 255
TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
SCOPE_CLAIMS: Final = ("scope", "scp", "scopes")
REQUIRED: Final = ("exp", "iss", "aud", "sub")
# Kinds of refusal that are worth telling apart; whatever else is wrong is "not valid".
DETAILS: Final[dict[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "The token has expired.",
    jwt.ImmatureSignatureError: "The token is not valid yet.",
    jwt.InvalidAudienceError: "The token is for another audience.",
    jwt.InvalidIssuerError: "The token's issuer is not trusted here.",
    jwt.MissingRequiredClaimError: f"The token lacks one of the claims {', '.join(REQUIRED)}.",
    jwt.InvalidSignatureError: "The token's signature does not fit.",
}
NOT_VALID: Final = "The token is not valid."
# A token is anybody's text: PyJWT lets some of what it meets in there through.
MALFORMED: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class JwtVerifier:
    """The rules over the key sets of the trusted issuers."""

    def __init__(self, trusts: Sequence[TrustedIssuer]) -> None:
        self.trusted = [(trust, KeySet(trust.jwks_url, trust.ca_file, trust.token_file)) for trust in trusts]

    async def verify(self, token: bytes) -> VerifiedToken:
        """Raises Unauthenticated, IssuerUnavailable."""
        key_id, algorithm, issuer = read_unverified(token)
        refusal = Unauthenticated(DETAILS[jwt.InvalidIssuerError])
        for trust, keys in self.trusted:
            if trust.issuer == issuer:
                try:
                    return verify_claims(token, trust, await keys.find(key_id, algorithm), algorithm)
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


def verify_claims(token: bytes, trust: TrustedIssuer, key: Any, algorithm: str) -> VerifiedToken:
    """What a token says, its signature and claims checked. Raises Unauthenticated."""
    if key is None:
        raise Unauthenticated(
            "The token is signed with no key of its issuer, or with an algorithm that is not its key's."
        )
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=trust.audience,
            issuer=trust.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": list(REQUIRED), "enforce_minimum_key_length": True},
        )
        expires_at = float(claims["exp"])
    except MALFORMED as error:
        raise Unauthenticated(DETAILS.get(type(error), NOT_VALID)) from None
    subject = claims["sub"]
    if not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise Unauthenticated(f"The token's subject is not 1 to {MAX_SUBJECT} printable characters.")
    if not any(fnmatchcase(subject, pattern) for pattern in trust.subjects):
        raise Unauthenticated("The token's subject is not one of those that may come here.")
    scopes = trust.grants if trust.grants is not None else scopes_of(claims)
    return VerifiedToken(trust.kind, trust.issuer, subject, scopes, expires_at)


def scopes_of(claims: dict[str, Any]) -> frozenset[str]:
    """The scopes of `scope`, `scp` and `scopes`: each a list, or one string with spaces between."""
    found: set[str] = set()
    for name in SCOPE_CLAIMS:
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split())
        elif isinstance(value, list):
            found.update(scope for scope in value if isinstance(scope, str))
    return frozenset(found)
