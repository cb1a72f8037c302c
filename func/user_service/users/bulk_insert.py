"""Bulk insert: new users made ready outside of a transaction, as data of a COPY or arrays of an INSERT."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.users import rules
from user_service.users.binary_copy import encode_terms, encode_users
from user_service.users.column_arrays import INSERTED, attribute_arrays
from user_service.users.duplicates import find_duplicates
from user_service.users.encrypted_columns import seal_personal
from user_service.users.model import User
from user_service.users.schemas import UserCreate

# COPY costs PostgreSQL half of what INSERT does, but more round trips. It has neither expressions nor ON CONFLICT.
COPY_THRESHOLD: Final = 50
# Users that are validated or encrypted before other tasks may run: about 2 ms.
SLICE_SIZE: Final = 100

T = TypeVar("T")


class InsertRows:
    """New users and their terms, encrypted, as PostgreSQL takes them."""

    def __init__(self, cipher: Cipher, index: BlindIndex) -> None:
        self.cipher = cipher
        self.index = index
        self.key_id = cipher.active_id
        self.users: list[User] = []
        self.email_indexes: list[bytes] = []
        self.tokens: list[bytes] = []
        self.documents: list[bytes] = []
        self.postings: list[tuple[set[int], UUID]] = []
        self.copied: tuple[bytes, bytes] | None = None

    def is_current(self, cipher: Cipher, index: BlindIndex) -> bool:
        """Whether these are still the keys: what is encrypted under a retired key must not be written."""
        return self.index is index and self.key_id == cipher.active_id

    def add(self, users: Sequence[User]) -> None:
        self.users += users
        self.email_indexes += [self.index.email(user.email) for user in users]
        self.tokens += seal_personal(users, self.cipher)
        self.documents += [orjson.dumps(user.metadata) for user in users]
        self.postings += [(self.index.user_terms(user.names, user.metadata), user.id) for user in users]

    def copy_data(self) -> tuple[bytes, bytes]:
        """The data of a COPY of the users, and of one of their terms; encoded once."""
        if self.copied is None:
            users = encode_users(self.users, self.email_indexes, self.tokens, self.documents)
            self.copied = users, encode_terms(self.postings)
        return self.copied

    def insert_arrays(self) -> dict[str, Sequence[Any]]:
        """The arrays of an INSERT of the users."""
        return {
            **attribute_arrays(self.users, INSERTED),
            "email_index": self.email_indexes,
            "personal": self.tokens,
            "metadata": [document.decode() for document in self.documents],
        }


class PreparedUsers:
    """New users, the duplicates among them, and the rows of the others where they were prepared."""

    def __init__(self, users: Sequence[User], rows: InsertRows | None = None) -> None:
        self.users = users
        self.rows = rows
        self.duplicates = find_duplicates(enumerate(users))
        self.unique = [user for position, user in enumerate(users) if position not in self.duplicates]

    @classmethod
    async def prepare(cls, bodies: Sequence[UserCreate], cipher: Cipher, index: BlindIndex) -> Self:
        """Does all that needs no transaction, and lets other tasks run in between."""
        users: list[User] = []
        async for _, some in iterate_slices(bodies):
            users += map(rules.new_user, some)
        rows = InsertRows(cipher, index)
        prepared = cls(users, rows)
        async for _, some_users in iterate_slices(prepared.unique):
            rows.add(some_users)
        if len(prepared.unique) >= COPY_THRESHOLD:
            rows.copy_data()
        return prepared


async def iterate_slices(items: Sequence[T]) -> AsyncIterator[tuple[int, Sequence[T]]]:
    """Slices of `SLICE_SIZE` items, with the position of the first; other tasks run in between."""
    for start in range(0, len(items), SLICE_SIZE):
        yield start, items[start : start + SLICE_SIZE]
        await asyncio.sleep(0)
