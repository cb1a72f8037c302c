"""The API keys that this process accepts: those of INTERNAL_API_KEY, and the named ones of API_KEYS."""

import hmac
from collections.abc import Sequence
from time import time
from typing import Final

from user_service.errors import Unauthenticated
from user_service.security.principals import Principal
from user_service.values.api_keys import SCOPES, NamedKey, hash_key, key_fingerprint

NAME_PREFIX: Final = "api-key:"


class ApiKey:
    """An accepted key: its principal, when it expires and when it was last used, in seconds since 1970."""

    __slots__ = ("digest", "expires_at", "last_used_at", "principal")

    def __init__(self, digest: bytes, principal: Principal, expires_at: float | None) -> None:
        self.digest, self.principal, self.expires_at = digest, principal, expires_at
        # None: not by this process.
        self.last_used_at: float | None = None

    @property
    def name(self) -> str:
        return self.principal.name.removeprefix(NAME_PREFIX)

    @property
    def fingerprint(self) -> str:
        return key_fingerprint(self.digest)


class ApiKeys:
    """Finds the principal of a key, and notes when each key is used. All authenticators of a process share one."""

    def __init__(self, internal: Sequence[str] = (), named: Sequence[NamedKey] = ()) -> None:
        self.internal: list[tuple[bytes, ApiKey]] = []
        self.named: dict[bytes, ApiKey] = {}
        self.replace(internal, named)

    def replace(self, internal: Sequence[str], named: Sequence[NamedKey]) -> None:
        """Accepts these keys from the next request on. The times of use of keys that stay are kept."""
        used = {key.digest: key.last_used_at for key in self.all}
        self.internal = [(key.encode(), internal_key(key)) for key in internal]
        self.named = {key.digest: named_key(key) for key in named}
        for api_key in self.all:
            api_key.last_used_at = used.get(api_key.digest)

    @property
    def all(self) -> list[ApiKey]:
        return [*(key for _, key in self.internal), *self.named.values()]

    def find(self, credential: bytes) -> Principal | None:
        """The principal of a key; None for any other credential. Raises Unauthenticated for a key that has expired.

        Internal keys are compared in constant time. Named ones are found by their SHA-256, which a caller can't
        approach step by step.
        """
        found = None
        for key, api_key in self.internal:
            if hmac.compare_digest(key, credential):
                found = api_key
        if found is None and self.named:
            found = self.named.get(hash_key(credential))
        if found is None:
            return None
        now = time()
        if found.expires_at is not None and now >= found.expires_at:
            raise Unauthenticated("The API key has expired.")
        found.last_used_at = now
        return found.principal


def internal_key(key: str) -> ApiKey:
    """A key with all scopes. Its name is its fingerprint, so that the audit trail tells rotated keys apart."""
    digest = hash_key(key.encode())
    return ApiKey(digest, Principal("api_key", f"{NAME_PREFIX}{key_fingerprint(digest)}", SCOPES), None)


def named_key(key: NamedKey) -> ApiKey:
    expires_at = None if key.expires is None else key.expires.timestamp()
    return ApiKey(key.digest, Principal("api_key", f"{NAME_PREFIX}{key.name}", key.scopes), expires_at)
