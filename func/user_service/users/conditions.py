"""Boolean conditions on living users, for searches that are more than the filters of the list.

`Named` and `ExternalIdStarts` are about identifiers, which tables hold as blind indexes or in clear; the others are
about columns. What none of them can say can't be searched for without reading every user.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Final


class Key(Enum):
    """What names a user. A username is looked up among the usernames, and among the e-mail addresses of users without
    one. An e-mail address finds aliases too.
    """

    ID = "id"
    USERNAME = "username"
    EMAIL = "email"
    EXTERNAL_ID = "external_id"


class Comparison(StrEnum):
    LESS = "<"
    AT_MOST = "<="
    EQUAL = "="
    AT_LEAST = ">="
    MORE = ">"


class Time(Enum):
    CREATED = "created_at"
    UPDATED = "updated_at"


@dataclass(frozen=True, slots=True)
class Named:
    """The user that has this id or identifier."""

    key: Key
    value: str


@dataclass(frozen=True, slots=True)
class ExternalIdStarts:
    """Users whose external id begins with a text; an empty one: those that have an external id."""

    prefix: str


@dataclass(frozen=True, slots=True)
class HasStatus:
    statuses: frozenset[str]


@dataclass(frozen=True, slots=True)
class TimeIs:
    time: Time
    comparison: Comparison
    moment: datetime


@dataclass(frozen=True, slots=True)
class Constant:
    """All users, or none."""

    value: bool


@dataclass(frozen=True, slots=True)
class Not:
    term: "Condition"


@dataclass(frozen=True, slots=True)
class All:
    terms: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    terms: tuple["Condition", ...]


Condition = Named | ExternalIdStarts | HasStatus | TimeIs | Constant | Not | All | AnyOf
EVERYONE: Final = Constant(True)


def names(condition: Condition) -> Iterator[Named]:
    """Every name in a condition."""
    match condition:
        case Named():
            yield condition
        case Not(term):
            yield from names(term)
        case All(terms) | AnyOf(terms):
            for term in terms:
                yield from names(term)


def is_narrow(condition: Condition) -> bool:
    """Whether only users that the condition names can meet it."""
    match condition:
        case Named() | Constant(False):
            return True
        case All(terms):
            return any(map(is_narrow, terms))
        case AnyOf(terms):
            return all(map(is_narrow, terms))
    return False


def follows_updates(condition: Condition) -> bool:
    """Whether every user that meets the condition was updated within a range of time."""
    match condition:
        case TimeIs(time=Time.UPDATED):
            return True
        case All(terms):
            return any(map(follows_updates, terms))
    return False
