"""Users as files: NDJSON, or CSV (RFC 4180) with the columns that an import takes."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from user_service.users.model import JSON_OPTIONS, User
from user_service.users.schemas import UserRead

FIELDS: Final = tuple(UserRead.model_fields)
BOOLEANS: Final = {True: "true", False: "false"}


class ExportFormat:
    """A format of exports: the head of the file, and how it holds users. `fields` are names of FIELDS, None for all."""

    def __init__(self, fields: Sequence[str] | None = None) -> None:
        self.fields = fields

    @property
    def head(self) -> bytes:
        return b""

    def encode(self, users: Sequence[User]) -> bytes:
        return b"".join([user.to_json(self.fields) + b"\n" for user in users])


class CsvFormat(ExportFormat):
    """An absent value is an empty cell; `aliases` are separated by spaces; `preferences` and `metadata` are JSON, and
    empty cells when they are empty.
    """

    @property
    def columns(self) -> Sequence[str]:
        return self.fields or FIELDS

    @property
    def head(self) -> bytes:
        return encode_rows([self.columns])

    def encode(self, users: Sequence[User]) -> bytes:
        columns = self.columns
        documents = map(User.document, users)
        return encode_rows([[cell(document[name]) for name in columns] for document in documents])


EXPORT_FORMATS: Final[Mapping[str, Callable[..., ExportFormat]]] = {"ndjson": ExportFormat, "csv": CsvFormat}


def cell(value: Any) -> str:
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return BOOLEANS[value]
    if isinstance(value, list):
        return " ".join(value)
    if isinstance(value, datetime):
        return orjson.dumps(value, option=JSON_OPTIONS)[1:-1].decode()
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


def encode_rows(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
