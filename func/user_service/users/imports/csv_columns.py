"""The columns of a CSV file: what its header says, and the record that a row makes under it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from user_service.errors import FieldError
from user_service.users.imports.csv_rows import Row
from user_service.users.imports.lines import JSON_ARRAY, UnreadableFile
from user_service.users.imports.records import BadRecord, Record, parse_object
from user_service.users.schemas import ImportedUser, UserRead

UnknownColumns = Literal["fail", "ignore"]

BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
JSON_COLUMNS: Final = frozenset({"preferences", "metadata"})
BOOLEAN_COLUMNS: Final = frozenset({"email_verified"})
# Addresses hold neither spaces nor semicolons.
LIST_COLUMNS: Final = frozenset({"aliases"})
LIST_SEPARATORS: Final = re.compile(r"[\s;]+")
METADATA_PREFIX: Final = "metadata."
# What an export writes may stand in the header, though some of it is passed over.
COLUMNS: Final = tuple(dict.fromkeys([*ImportedUser.model_fields, *UserRead.model_fields]))
MAX_HEADER_ERRORS: Final = 20
MAX_NAME_SHOWN: Final = 50
NOT_UTF8: Final = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Header:
    """The field of each column, None for a column that is passed over."""

    fields: Sequence[str | None]

    def make_record(self, row: Row, *, is_utf8: bool) -> Record | None:
        """The record of a row; None for a blank one. Cells are trimmed, and an empty one is an absent field."""
        cells = [cell.strip() for cell in row.cells]
        if not any(cells):
            return None
        if not is_utf8:
            return self.describe_encoding(cells)
        if any(cells[len(self.fields) :]):
            counts = f"{len(cells)} cells, the header {len(self.fields)}"
            return BadRecord(
                "wrong_number_of_cells", f"The row has {counts}: a cell with a separator in it needs quotes."
            )
        record: dict[str, Any] = {}
        for name, cell in zip(self.fields, cells, strict=False):
            if not cell or name is None:
                continue
            if name in JSON_COLUMNS:
                parsed = parse_object(cell, "cell")
                if isinstance(parsed, BadRecord):
                    return BadRecord(parsed.code, parsed.detail, name)
                record[name] = {**record.get(name, {}), **parsed}
            elif name in LIST_COLUMNS:
                record[name] = [part for part in LIST_SEPARATORS.split(cell) if part]
            elif name.startswith(METADATA_PREFIX):
                record.setdefault("metadata", {})[name.removeprefix(METADATA_PREFIX)] = cell
            elif name not in BOOLEAN_COLUMNS:
                record[name] = cell
            elif cell.lower() in BOOLEANS:
                record[name] = BOOLEANS[cell.lower()]
            else:
                return BadRecord("validation_failed", f"must be one of {', '.join(BOOLEANS)} (bool_type)", name)
        return record

    def describe_encoding(self, cells: Sequence[str]) -> BadRecord:
        """The failure of a row with bytes that are not UTF-8, which its cells hold as lone surrogates."""
        for number, (cell, name) in enumerate(zip(cells, [*self.fields, *[None] * len(cells)], strict=False), 1):
            if found := NOT_UTF8.search(cell):
                byte = ord(found[0]) - 0xDC00
                detail = f"Cell {number} has the byte 0x{byte:02X}, which is not UTF-8: save the file as CSV UTF-8."
                return BadRecord("encoding", detail, name)
        return BadRecord("encoding", "The row is not UTF-8: save the file as CSV UTF-8.")


def parse_header(row: Row, unknown_columns: UnknownColumns) -> Header:
    """The columns that a header names, in any case; empty last ones are left out. Raises UnreadableFile."""
    names = [cell.strip() for cell in row.cells]
    while names and not names[-1]:
        names.pop()
    fields = [find_field(name) for name in names]
    faults = []
    if unknown_columns == "fail":
        # Where no column has a known name, the header is missing and the row is a person's: it is not quoted.
        quotes = any(field is not None for field in fields)
        faults = [
            FieldError("/header", "unknown_column", f"column {number}{shown(name, quotes)} does not name a field")
            for number, (name, field) in enumerate(zip(names, fields, strict=True), 1)
            if field is None
        ]
    named: dict[str, int] = {}
    for number, field in enumerate(fields, 1):
        first = named.setdefault(field, number) if field is not None else number
        if first != number:
            detail = f"column {number} names the same field as column {first}"
            faults.append(FieldError("/header", "repeated_column", detail))
    if faults:
        raise refuse_header(row, faults)
    return Header(fields)


def find_field(name: str) -> str | None:
    lowered = name.lower()
    if lowered in COLUMNS:
        return lowered
    is_metadata = lowered.startswith(METADATA_PREFIX) and len(lowered) > len(METADATA_PREFIX)
    return METADATA_PREFIX + name[len(METADATA_PREFIX) :] if is_metadata else None


def shown(name: str, quotes: bool) -> str:
    """A column's name for a message, where it may be quoted."""
    if not name:
        return " (empty)"
    return f" ({NOT_UTF8.sub('?', name[:MAX_NAME_SHOWN])!r})" if quotes else ""


def refuse_header(row: Row, faults: Sequence[FieldError]) -> UnreadableFile:
    start = row.cells[0].lstrip()
    if start.startswith("{"):
        return UnreadableFile(row.line, "the file is NDJSON, not CSV: send it as application/x-ndjson.")
    if start.startswith("["):
        return UnreadableFile(row.line, JSON_ARRAY, code="json_array")
    separators = " Columns are separated by a comma, a semicolon or a tab." if len(row.cells) == 1 else ""
    error = UnreadableFile(
        row.line,
        f"the header must name the field of each column, and does not. The fields are {', '.join(COLUMNS)} and"
        f" metadata.<key>; unknown_columns=ignore passes over other columns.{separators}",
    )
    error.errors = tuple(faults[:MAX_HEADER_ERRORS])
    return error
