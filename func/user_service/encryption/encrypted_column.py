"""A column of encrypted tokens, and the statements that re-encrypt it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from user_service.encryption.cipher import TOKEN_HEAD_BYTES


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A column of tokens. `key` has the columns of the table's primary key and their types; `binding` turns a row's
    key into the 16 bytes that its token is bound to, besides `purpose`.
    """

    table: str
    column: str
    key: Mapping[str, str]
    purpose: bytes
    binding: Callable[[Sequence[Any]], bytes]

    def select_page(self, selected: str, *, first: bool, parameters: int = 0) -> str:
        """A page of rows in the order of the key: the key and `selected`.

        Its parameters: the `parameters` of `selected`, the number of rows, and unless it is the `first` page the key of
        the last row of the page before.
        """
        names = ", ".join(self.key)
        last = ", ".join(f"${place}" for place in range(parameters + 2, parameters + 2 + len(self.key)))
        condition = "" if first else f" WHERE ({names}) > ({last})"
        return (
            f"SELECT {names}, {selected} FROM {self.table}{condition}"  # noqa: S608
            f" ORDER BY {names} LIMIT ${parameters + 1}"
        )

    def select_heads(self, *, first: bool) -> str:
        """A page with the first bytes of each token, which contain the key id."""
        return self.select_page(f"substring({self.column} FOR {TOKEN_HEAD_BYTES})", first=first)

    def select_former(self, *, first: bool) -> str:
        """A page with the tokens that do not start with $1, and NULL for the others."""
        prefix = f"substring({self.column} FOR octet_length($1::bytea))"
        return self.select_page(f"CASE WHEN {prefix} <> $1 THEN {self.column} END", first=first, parameters=1)

    @property
    def replace(self) -> str:
        """Replaces old tokens that are still there by new ones; skips rows that another transaction has locked.

        Parameters: an array for each column of the key, the old tokens, the new ones. It returns a row for each token
        that it replaced, and changes no other column.
        """
        return (
            f"WITH given AS (SELECT * FROM {self.replacements('g')}),"  # noqa: S608
            f" locked AS (SELECT v.* FROM {self.table} AS t, given AS v WHERE {self.unchanged}"
            " FOR NO KEY UPDATE OF t SKIP LOCKED)"
            f" UPDATE {self.table} AS t SET {self.column} = v.after FROM locked AS v WHERE {self.unchanged} RETURNING 1"
        )

    @property
    def replace_waiting(self) -> str:
        """The same for a distributed table: it waits for locked rows, because Citus skips none."""
        return (
            f"UPDATE {self.table} AS t SET {self.column} = v.after FROM {self.replacements('v')}"  # noqa: S608
            f" WHERE {self.unchanged} RETURNING 1"
        )

    def replacements(self, alias: str) -> str:
        columns = [*self.key, "before", "after"]
        types = [*self.key.values(), "bytea", "bytea"]
        arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(types, start=1))
        return f"unnest({arrays}) AS {alias}({', '.join(columns)})"

    @property
    def unchanged(self) -> str:
        same = " AND ".join(f"t.{name} = v.{name}" for name in self.key)
        return f"{same} AND t.{self.column} = v.before"
