"""The issuers whose tokens (JWT, RFC 7519) this service trusts, and what a verified token says."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from user_service.settings import Settings

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An issuer, the audience that its tokens must name, and the URL of its public keys.

    `subjects` are patterns of the `sub` claims that are accepted; `grants` are scopes that every token of this issuer
    has, in place of those that it claims.
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
    """The claims of a token that was verified. `expires_at` is in seconds since 1970."""

    kind: str
    issuer: str
    subject: str
    scopes: frozenset[str]
    expires_at: float


def user_issuers(settings: Settings) -> list[TrustedIssuer]:
    """The issuer of the tokens of users and services; empty where none is set."""
    if settings.jwt_issuer is None or settings.jwt_audience is None or settings.jwt_jwks_url is None:
        return []
    return [
        TrustedIssuer("jwt", settings.jwt_issuer, settings.jwt_audience, settings.jwt_jwks_url, settings.jwks_ca_file)
    ]


def broker_issuers(settings: Settings) -> list[TrustedIssuer]:
    """The issuer of the broker's tokens, which allow events and nothing else; empty where none is set."""
    if settings.events_audience is None:
        return []
    return [
        TrustedIssuer(
            "broker",
            settings.events_issuer,
            settings.events_audience,
            settings.events_jwks_url,
            settings.jwks_ca_file or find_pod_file("ca.crt"),
            settings.events_jwks_token_file or find_pod_file("token"),
            settings.events_subjects,
            frozenset({"events:write"}),
        )
    ]


def find_pod_file(name: str) -> Path | None:
    """A file of the pod's service account, if one is mounted: a cluster shows its keys only to a service account."""
    path = SERVICE_ACCOUNT / name
    return path if path.exists() else None
