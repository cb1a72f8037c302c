"""Columns of sealed tokens: where they are, and the statements that seal them again under another key."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from user_service.encryption.cipher import HEAD_BYTES
from user_service.idempotency.stored_responses import SHELVES, ResponseTable
from user_service.users.model import PERSONAL_PURPOSE


@dataclass(frozen=True, slots=True)
class Sealed:
    """A column of tokens. `key` has the columns of the table's primary key and their types; `binding` turns a row's
    key into the 16 bytes that its token is bound to, beside `purpose`.
    """

    table: str
    column: str
    key: Mapping[str, str]
    purpose: bytes
    binding: Callable[[Sequence[Any]], bytes]

    def page(self, shown: str, *, first: bool, others: int = 0) -> str:
        """Rows in the order of the key: the key and `shown`. Parameters: `others` that `shown` asks for, how many
        rows, and the key of the row before unless it is the `first` page.
        """
        names = ", ".join(self.key)
        before = ", ".join(f"${place}" for place in range(others + 2, others + 2 + len(self.key)))
        condition = "" if first else f" WHERE ({names}) > ({before})"
        return f"SELECT {names}, {shown} FROM {self.table}{condition} ORDER BY {names} LIMIT ${others + 1}"  # noqa: S608

    def heads(self, *, first: bool) -> str:
        """A page with as much of each token as tells its key."""
        return self.page(f"substring({self.column} FOR {HEAD_BYTES})", first=first)

    def strangers(self, *, first: bool) -> str:
        """A page with the tokens that do not begin with $1, and NULL for the others."""
        begin = f"substring({self.column} FOR octet_length($1::bytea))"
        return self.page(f"CASE WHEN {begin} <> $1 THEN {self.column} END", first=first, others=1)

    @property
    def replace(self) -> str:
        """Puts new tokens in the place of old ones, where those are still there and nobody is at work on the row.

        Parameters: an array for each column of the key, the old tokens, the new ones. A row for each that was
        replaced. Nothing else of the row changes.
        """
        columns = [*self.key, "before", "after"]
        types = [*self.key.values(), "bytea", "bytea"]
        arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(types, start=1))
        same = " AND ".join(f"t.{name} = v.{name}" for name in self.key)
        held = f"{same} AND t.{self.column} = v.before"
        return (
            f"WITH given AS (SELECT * FROM unnest({arrays}) AS g({', '.join(columns)})),"  # noqa: S608
            f" held AS (SELECT v.* FROM {self.table} AS t, given AS v WHERE {held} FOR NO KEY UPDATE OF t SKIP LOCKED)"
            f" UPDATE {self.table} AS t SET {self.column} = v.after FROM held AS v WHERE {held} RETURNING 1"
        )


def of_shelf(shelf: ResponseTable) -> Sealed:
    return Sealed(shelf.table, shelf.column, shelf.key, shelf.purpose, lambda key: shelf.name_of(*key))


USERS: Final = Sealed("users", "personal", {"id": "uuid"}, PERSONAL_PURPOSE, lambda key: bytes(key[0].bytes))
# Everything that is sealed in the database. A test finds what is missing here.
TABLES: Final = (USERS, *map(of_shelf, SHELVES))
