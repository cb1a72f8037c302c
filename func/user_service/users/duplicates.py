"""Duplicates: users of one set that ask for the same identifier. The first of them gets it."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from user_service.encryption.blind_index import BlindIndex
from user_service.users.identifiers import Identifier, Move, held
from user_service.users.model import User


def find_duplicates(users: Sequence[User], wanted: Sequence[Collection[Identifier]]) -> dict[int, int]:
    """The places of new users whose id, or one of whose identifiers, an earlier user has, with that one's place.

    A duplicate holds nothing.
    """
    asked: list[Identifier | UUID] = [user.id for user in users]
    for keys in wanted:
        asked += keys
    if len(set(asked)) == len(asked):
        return {}
    holders: dict[Identifier | UUID, int] = {}
    duplicates: dict[int, int] = {}
    for place, (user, keys) in enumerate(zip(users, wanted, strict=True)):
        user_id = user.id
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


def find_contested(users: Mapping[int, User], moves: Mapping[int, Move], index: BlindIndex) -> dict[int, int]:
    """The places of users that ask for an identifier which another user keeps or asked for earlier, with that one's.

    `users` are a set as it would be after a change, `moves` what the change does to their identifiers, by place.
    """
    if len(users) < 2 or not any(move.asked for move in moves.values()):
        return {}
    holders = {
        key: place
        for place, user in users.items()
        for key in (moves[place].kept if place in moves else held(user, index))
    }
    contested: dict[int, int] = {}
    for place, move in moves.items():
        first = next((holders[key] for key in move.asked if key in holders), None)
        if first is not None:
            contested[place] = first
            continue
        holders |= dict.fromkeys(move.asked, place)
    return contested
