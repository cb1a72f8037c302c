"""Duplicates: users of one set that ask for the same identifier. The first of them gets it."""

from collections.abc import Collection, Iterable
from typing import TypeVar

from user_service.users.identifiers import Identifier
from user_service.users.model import User

Position = TypeVar("Position")


def find_duplicates(users: Iterable[tuple[Position, User, Collection[Identifier]]]) -> dict[Position, Position]:
    """The positions of users whose id, or one of whose identifiers, an earlier user has, with that one's position.

    A duplicate holds nothing.
    """
    holders: dict[Identifier | int, Position] = {}
    duplicates: dict[Position, Position] = {}
    for position, user, keys in users:
        user_id = user.id.int
        first = holders.get(user_id)
        for key in keys:
            if first is None:
                first = holders.get(key)
        if first is not None:
            duplicates[position] = first
            continue
        holders[user_id] = position
        for key in keys:
            holders[key] = position
    return duplicates
