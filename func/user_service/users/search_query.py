"""What a list, a find or an export asks for, and what a page answers; without SQLAlchemy."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME, BlindIndex, encode_text
from user_service.users.cursors import Cursor
from user_service.users.model import DELETED

T = TypeVar("T")


class SearchQuery(NamedTuple):
    """The parameters of a page of the list."""

    email: str | None = None
    email_domain: str | None = None
    username: str | None = None
    phone: str | None = None
    external_id: str | None = None
    status: str | None = None
    q: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    metadata: Mapping[str, str] = MappingProxyType({})
    include_deleted: bool = False
    sort: str = "created_at"
    limit: int = 50
    cursor: Cursor | None = None
    counted: bool = False

    def __hash__(self) -> int:
        return hash((self[:METADATA], self[METADATA + 1 :], frozenset(self.metadata.items())))

    @property
    def by_update(self) -> bool:
        return self.sort.endswith("updated_at")

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")

    @property
    def names_key(self) -> bool:
        """Whether it finds by a unique key, which callers do to see what they have just written."""
        return self.email is not None or self.username is not None or self.external_id is not None

    @property
    def sees_deleted(self) -> bool:
        return self.include_deleted or self.status == DELETED


METADATA: Final = SearchQuery._fields.index("metadata")


class SearchPage(NamedTuple, Generic[T]):
    """Users, or their rows, in the requested order, and the cursor of the next page; None on the last page.

    `total` is the number of users on all pages; None where the query does not count them, or it takes too long.
    """

    users: Sequence[T]
    next: Cursor | None
    total: int | None = None


class Named(NamedTuple):
    """An identifier: its kind, its key in table `identifiers`, and the hash that is a search term of a
    deleted user that had it."""

    kind: int
    key: bytes
    hash: bytes


def find_named(query: SearchQuery, index: BlindIndex) -> list[Named]:
    """The identifiers that a query names."""
    found = []
    if query.email is not None:
        email = index.email(query.email)
        found.append(Named(EMAIL, email, email))
    if query.username is not None:
        username = index.username(query.username)
        found.append(Named(USERNAME, username, username))
    if query.external_id is not None:
        found.append(Named(EXTERNAL_ID, encode_text(query.external_id), index.external_id(query.external_id)))
    return found
