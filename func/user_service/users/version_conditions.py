"""Conditions of requests on the version of a user (RFC 9110, 13.1): `If-Match`, `If-None-Match`, and `if_version`.

A change checks its condition in the transaction, under the lock of the row.
"""

from dataclasses import dataclass
from typing import Final

from user_service.errors import VersionMismatch

# What a request is about exists, but has no versions: a list, for instance. No entity tag names this version.
UNVERSIONED: Final = 0


@dataclass(frozen=True, slots=True)
class Versions:
    """A set of versions: the named ones, or `every` version that exists."""

    named: frozenset[int] = frozenset()
    every: bool = False

    def __contains__(self, version: int | None) -> bool:
        """Whether a version is in the set; None, which says that nothing exists, is in no set."""
        return version is not None and (self.every or version in self.named)


@dataclass(frozen=True, slots=True)
class Condition:
    """The version must be one of `required` (If-Match) and none of `excluded` (If-None-Match)."""

    required: Versions | None = None
    excluded: Versions | None = None

    def check(self, version: int | None) -> None:
        """Raises VersionMismatch. `version` is the current one; None says that there is no user."""
        if self.required is not None and version not in self.required:
            raise VersionMismatch(describe_mismatch(version))
        if self.excluded is not None and version in self.excluded:
            raise VersionMismatch(describe_exclusion(version, self.excluded))


def check_condition(condition: Condition | None, version: int | None) -> None:
    """`Condition.check`, where there is a condition. Raises VersionMismatch."""
    if condition is not None:
        condition.check(version)


def require_version(version: int | None) -> Condition | None:
    """The condition that a user has this version; None without a version."""
    return None if version is None else Condition(required=Versions(frozenset({version})))


def describe_mismatch(version: int | None) -> str:
    if version is None:
        return "Nothing exists at this address, so no version can match."
    if version == UNVERSIONED:
        return "This resource has no ETag, so that no version can match; leave out If-Match."
    return f"The user is at version {version}, not at the requested one; read it again."


def describe_exclusion(version: int | None, excluded: Versions) -> str:
    if excluded.every:
        return "It exists already, and If-None-Match: * asks that it does not."
    return f"The user is at version {version}, which If-None-Match excludes."
