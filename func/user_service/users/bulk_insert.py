"""What PostgreSQL is given for new users."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.users.binary_copy import copied_terms, copied_users
from user_service.users.column_arrays import NEW, plain_columns
from user_service.users.model import User, seal_personal


class InsertRows:
    """New users and their terms, made a few at a time and outside of a transaction where that helps."""

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

    def fit(self, cipher: Cipher, index: BlindIndex) -> bool:
        """Whether they would be the same by these keys; what is sealed under a retired one must not be written."""
        return self.index is index and self.key_id == cipher.active_id

    def add(self, users: Sequence[User]) -> None:
        self.users += users
        self.email_indexes += [self.index.email(user.email) for user in users]
        self.tokens += seal_personal(users, self.cipher)
        self.documents += [orjson.dumps(user.metadata) for user in users]
        self.postings += [(self.index.user_terms(user.names, user.metadata), user.id) for user in users]

    def to_copy(self) -> tuple[bytes, bytes]:
        """The data of a COPY of the users, and of one of their terms; made once."""
        if self.copied is None:
            users = copied_users(self.users, self.email_indexes, self.tokens, self.documents)
            self.copied = users, copied_terms(self.postings)
        return self.copied

    def to_insert(self) -> dict[str, Sequence[Any]]:
        """The arrays of an INSERT of the users."""
        return {
            **plain_columns(self.users, NEW),
            "email_index": self.email_indexes,
            "personal": self.tokens,
            "metadata": [document.decode() for document in self.documents],
        }
