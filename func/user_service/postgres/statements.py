"""SQL with named parameters, as asyncpg takes it: with numbers. SQLAlchemy is not needed for it."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# A colon that is no part of a cast, and the name behind it.
PARAMETER: Final = re.compile(r"(?<![:\w]):([A-Za-z_]\w*)")


class Statement(NamedTuple):
    """A statement, and the names of its parameters in the order of their numbers."""

    sql: str
    names: tuple[str, ...]

    def arguments(self, values: Mapping[str, object]) -> list[Any]:
        return [values[name] for name in self.names]


def text(sql: str) -> Statement:
    """A statement of SQL whose parameters are written `:name`."""
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    return Statement(PARAMETER.sub(number, sql), tuple(numbers))
