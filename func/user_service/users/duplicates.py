"""Duplicates: users of one set that ask for the same identifier. The first of them gets it."""

from collections.abc import Collection, Mapping, Sequence

from user_service.users.identifiers import Identifier, Move
from user_service.users.model import User


def find_duplicates(users: Sequence[User], wanted: Sequence[Collection[Identifier]]) -> dict[int, int]:
    """The places of new users whose id, or one of whose identifiers, an earlier user has, with that one's place.

    A duplicate holds nothing.
    """
    holders: dict[Identifier | int, int] = {}
    duplicates: dict[int, int] = {}
    for place, (user, keys) in enumerate(zip(users, wanted, strict=True)):
        user_id = user.id.int
        first = holders.get(user_id)
        for key in keys:
            if first is None:
                first = holders.get(key)
        if first is not None:
            duplicates[place] = first
            continue
        holders[user_id] = place
        for key in keys:
            holders[key] = place
    return duplicates


def find_contested(kept: Mapping[int, Collection[Identifier]], moves: Mapping[int, Move]) -> dict[int, int]:
    """The places of users that ask for an identifier which another user keeps or asked for earlier, with that one's.

    `kept` are the identifiers that each user has before and after its change.
    """
    holders = {key: place for place, keys in kept.items() for key in keys}
    contested: dict[int, int] = {}
    for place, move in moves.items():
        first = next((holders[key] for key in move.asked if key in holders), None)
        if first is not None:
            contested[place] = first
            continue
        holders |= dict.fromkeys(move.asked, place)
    return contested
