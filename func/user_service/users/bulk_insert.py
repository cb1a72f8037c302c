"""Bulk insert: new users made ready outside of a transaction, as data of a COPY or arrays of an INSERT."""

import asyncio
from collections.abc import AsyncIterator, Collection, Container, Sequence
from copy import copy
from typing import Any, Final, Self, TypeVar
from uuid import UUID

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.users import rules
from user_service.users.binary_copy import encode_identifiers, encode_terms, encode_users
from user_service.users.change_log import Change
from user_service.users.column_arrays import INSERTED, attribute_arrays
from user_service.users.duplicates import find_duplicates
from user_service.users.encrypted_columns import seal_personal
from user_service.users.identifiers import Identifier, identifiers, search_terms
from user_service.users.model import User
from user_service.users.schemas import UserCreate

# COPY costs PostgreSQL half of what INSERT does, but more round trips. It has neither expressions nor ON CONFLICT.
COPY_THRESHOLD: Final = 50
# Users that are validated or encrypted before other tasks may run: about 2 ms.
SLICE_SIZE: Final = 100

T = TypeVar("T")


class InsertRows:
    """New users with their identifiers and terms, encrypted, as PostgreSQL takes them."""

    def __init__(self, cipher: Cipher, index: BlindIndex) -> None:
        self.cipher = cipher
        self.index = index
        self.key_id = cipher.active_id
        self.users: list[User] = []
        self.identifiers: list[list[Identifier]] = []
        self.phone_indexes: list[int | None] = []
        self.tokens: list[bytes] = []
        self.documents: list[bytes] = []
        self.postings: list[tuple[set[int], UUID]] = []
        self.copied: tuple[bytes, bytes, bytes] | None = None

    def is_current(self, cipher: Cipher, index: BlindIndex) -> bool:
        """Whether these are still the keys: what is encrypted under a retired key must not be written."""
        return self.index is index and self.key_id == cipher.active_id

    def add(self, users: Sequence[User], wanted: Sequence[list[Identifier]]) -> None:
        self.users += users
        self.identifiers += wanted
        self.phone_indexes += [self.index.phone(user.phone) for user in users]
        self.tokens += seal_personal(users, self.cipher)
        self.documents += [orjson.dumps(user.metadata) for user in users]
        self.postings += [(search_terms(user, self.index), user.id) for user in users]

    def without(self, ids: Container[UUID]) -> Self:
        """The rows of the users that have none of these ids; what is hashed and encrypted stays so."""
        places = [place for place, user in enumerate(self.users) if user.id not in ids]
        rest = copy(self)
        rest.users = [self.users[place] for place in places]
        rest.identifiers = [self.identifiers[place] for place in places]
        rest.phone_indexes = [self.phone_indexes[place] for place in places]
        rest.tokens = [self.tokens[place] for place in places]
        rest.documents = [self.documents[place] for place in places]
        rest.postings = [self.postings[place] for place in places]
        rest.copied = None
        return rest

    def copy_data(self) -> tuple[bytes, bytes, bytes]:
        """The data of COPYs of the identifiers, the users and the terms; encoded once."""
        if self.copied is None:
            wanted = encode_identifiers(self.users, self.identifiers)
            users = encode_users(self.users, self.phone_indexes, self.tokens, self.documents)
            self.copied = wanted, users, encode_terms(self.postings)
        return self.copied

    def insert_arrays(self) -> dict[str, Sequence[Any]]:
        """The arrays of an INSERT of the users."""
        return {
            **attribute_arrays(self.users, INSERTED),
            "phone_index": self.phone_indexes,
            "personal": self.tokens,
            "metadata": [document.decode() for document in self.documents],
        }


class PreparedUsers:
    """New users with their first changes, the duplicates among them, and the rows of the others where they were
    prepared.
    """

    def __init__(self, users: Sequence[User], changes: Sequence[Change], wanted: Sequence[list[Identifier]]) -> None:
        self.users = users
        self.changes = changes
        self.rows: InsertRows | None = None
        self.duplicates = find_duplicates(users, wanted)
        self.places = [place for place in range(len(users)) if place not in self.duplicates]
        self.unique = [users[place] for place in self.places]

    def without(self, used: Collection[UUID]) -> tuple[Sequence[User], InsertRows | None]:
        """The users that are no duplicates, and have none of these ids, with their rows where they were prepared."""
        if not used:
            return self.unique, self.rows
        unused = [user for user in self.unique if user.id not in used]
        return unused, self.rows.without(used) if self.rows is not None else None

    @classmethod
    def from_bodies(cls, bodies: Sequence[UserCreate], index: BlindIndex) -> Self:
        """Users without rows."""
        users = list(map(rules.new_user, bodies))
        changes = list(map(rules.first_change, users, bodies))
        return cls(users, changes, [identifiers(user, index) for user in users])

    @classmethod
    async def prepare(cls, bodies: Sequence[UserCreate], cipher: Cipher, index: BlindIndex) -> Self:
        """Does all that needs no transaction, and lets other tasks run in between."""
        users: list[User] = []
        changes: list[Change] = []
        wanted: list[list[Identifier]] = []
        async for _, some in iterate_slices(bodies):
            new = list(map(rules.new_user, some))
            users += new
            changes += map(rules.first_change, new, some)
            wanted += [identifiers(user, index) for user in new]
        prepared = cls(users, changes, wanted)
        prepared.rows = rows = InsertRows(cipher, index)
        async for _, places in iterate_slices(prepared.places):
            rows.add([users[place] for place in places], [wanted[place] for place in places])
        if len(prepared.unique) >= COPY_THRESHOLD:
            rows.copy_data()
        return prepared


async def iterate_slices(items: Sequence[T]) -> AsyncIterator[tuple[int, Sequence[T]]]:
    """Slices of `SLICE_SIZE` items, with the position of the first; other tasks run in between."""
    for start in range(0, len(items), SLICE_SIZE):
        yield start, items[start : start + SLICE_SIZE]
        await asyncio.sleep(0)
