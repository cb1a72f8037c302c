"""Authenticated callers, and what they may do."""

from dataclasses import dataclass, field
from typing import Final

from user_service.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. `name` is written to the audit trail: it holds neither a key nor personal data.

    `subject` is the `sub` of a token, which may be personal: it is used to find the user of `/users/me` only.
    """

    kind: str
    name: str
    scopes: frozenset[str]
    subject: str | None = field(default=None, repr=False)

    def require(self, scope: str) -> None:
        """Raises Forbidden when the principal lacks the scope."""
        if scope not in self.scopes:
            raise Forbidden(f"This request needs the scope {scope}.")


NETWORK: Final = Principal("network", "network", frozenset({"events:write"}))
