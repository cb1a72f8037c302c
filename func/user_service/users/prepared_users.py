"""New users, made ready before the transaction that writes them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, Self, TypeVar

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.users import rules
from user_service.users.bulk_insert import InsertRows
from user_service.users.duplicates import find_twins
from user_service.users.model import User
from user_service.users.repository import COPIED_FROM
from user_service.users.schemas import UserCreate

# Users who are checked, or made ready, before others may work: some 2 ms.
AT_ONCE: Final = 100

T = TypeVar("T")


class PreparedUsers:
    """New users, which of them are twins, and what PostgreSQL will be given, where that was made before."""

    def __init__(self, users: Sequence[User]) -> None:
        self.users = users
        self.twins = find_twins(enumerate(users))
        self.first = [user for place, user in enumerate(users) if place not in self.twins]
        self.rows: InsertRows | None = None

    @classmethod
    async def ready(cls, bodies: Sequence[UserCreate], cipher: Cipher, index: BlindIndex) -> Self:
        """All that can be made without a transaction, and lets others work in between."""
        users: list[User] = []
        async for _, some in in_slices(bodies):
            users += map(rules.new_user, some)
        newcomers = cls(users)
        newcomers.rows = rows = InsertRows(cipher, index)
        async for _, some_users in in_slices(newcomers.first):
            rows.add(some_users)
        if len(newcomers.first) >= COPIED_FROM:
            rows.to_copy()
        return newcomers


async def in_slices(items: Sequence[T]) -> AsyncIterator[tuple[int, Sequence[T]]]:
    """A few at a time, with the place of the first; others work in between."""
    for begin in range(0, len(items), AT_ONCE):
        yield begin, items[begin : begin + AT_ONCE]
        await asyncio.sleep(0)
