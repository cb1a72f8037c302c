"""Users as files: NDJSON, or CSV (RFC 4180) with the columns that an import takes."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from user_service.users.model import User
from user_service.users.schemas import UserRead

FIELDS: Final = tuple(UserRead.model_fields)
BOOLEANS: Final = {True: "true", False: "false"}


class ExportFormat:
    """A format of exports: the head of the file, and how it holds users. `fields` are names of FIELDS, None for all."""

    def __init__(self, fields: Sequence[str] | None = None) -> None:
        self.fields = fields or FIELDS
        self.is_whole = fields is None

    @property
    def head(self) -> bytes:
        return b""

    def encode(self, users: Sequence[User]) -> bytes:
        if self.is_whole:
            return b"".join(user.to_json() + b"\n" for user in users)
        rows = (select_fields(user, self.fields) for user in users)
        return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


class CsvFormat(ExportFormat):
    """An absent value is an empty cell; `aliases` are separated by spaces; `preferences` and `metadata` are JSON, and
    empty cells when they are empty.
    """

    @property
    def head(self) -> bytes:
        return encode_rows([self.fields])

    def encode(self, users: Sequence[User]) -> bytes:
        return encode_rows([list(map(cell, select_fields(user, self.fields).values())) for user in users])


EXPORT_FORMATS: Final[Mapping[str, Callable[..., ExportFormat]]] = {"ndjson": ExportFormat, "csv": CsvFormat}


def select_fields(user: User, fields: Sequence[str]) -> dict[str, Any]:
    """These fields of a user's representation, in this order."""
    document = orjson.loads(user.to_json())
    return {name: document[name] for name in fields}


def cell(value: Any) -> str:
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return BOOLEANS[value]
    if isinstance(value, list):
        return " ".join(value)
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


def encode_rows(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
