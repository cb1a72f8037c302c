"""Parsers of NDJSON and CSV files of users: a stream of records, of any length in bounded memory.

A record is the `data` of a user to create, or a BadRecord where the line can't be read; both are numbered from 1.
"""

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from user_service.errors import FieldError, ValidationFailed
from user_service.users.schemas import UserCreate

MAX_RECORD_BYTES: Final = 256 * 1024
BOOLEANS: Final = {"true": True, "false": False}
JSON_COLUMNS: Final = frozenset({"preferences", "metadata"})
BOOLEAN_COLUMNS: Final = frozenset({"email_verified"})
METADATA_PREFIX: Final = "metadata."
FIELDS: Final = frozenset(UserCreate.model_fields)
MAX_HEADER_ERRORS: Final = 20


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that can't be read. It fails alone; the records after it are still read."""

    code: str
    detail: str


Record = dict[str, Any] | BadRecord
RECORD_TOO_LONG: Final = BadRecord("record_too_long", f"The record is longer than {MAX_RECORD_BYTES} bytes.")


class RecordParser(Protocol):
    """Parses a file piece by piece. Raises ValidationFailed when the file can't be read from here on."""

    def feed(self, piece: bytes) -> Iterator[Record]: ...

    def end(self) -> Iterator[Record]: ...


class NdjsonParser:
    """One JSON object a line (UTF-8); empty lines are skipped and not numbered."""

    def __init__(self) -> None:
        self.rest = bytearray()
        self.skipping = False

    def feed(self, piece: bytes) -> Iterator[Record]:
        self.rest += piece
        *lines, rest = self.rest.split(b"\n")
        self.rest = rest
        for line in lines:
            yield from self.parse_line(line)
        if len(self.rest) > MAX_RECORD_BYTES:
            self.rest.clear()
            self.skipping = True

    def end(self) -> Iterator[Record]:
        if self.rest or self.skipping:
            yield from self.parse_line(self.rest)

    def parse_line(self, line: bytearray) -> Iterator[Record]:
        too_long, self.skipping = self.skipping or len(line) > MAX_RECORD_BYTES, False
        if too_long:
            yield RECORD_TOO_LONG
        elif text := line.strip():
            yield parse_object(text)


def parse_object(text: bytes | bytearray | str) -> Record:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return BadRecord("malformed_json", f"The line is not JSON: {error.msg} at character {error.pos}.")
    return document if isinstance(document, dict) else BadRecord("not_an_object", "The line is not a JSON object.")


class CsvParser:
    """RFC 4180 with a header of field names. `preferences` and `metadata` hold JSON, `metadata.plan` holds one value.

    An empty cell is an absent field.
    """

    def __init__(self, fields: frozenset[str]) -> None:
        self.fields = fields
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        # The row that has not ended yet, and whether its end so far is inside quotes.
        self.rest = ""
        self.quoted = False
        self.header: list[str] | None = None

    def feed(self, piece: bytes) -> Iterator[Record]:
        yield from self.parse_text(self.decode(piece))

    def end(self) -> Iterator[Record]:
        yield from self.parse_text(self.decode(b"", final=True))
        if self.rest.strip():
            last, self.rest = self.rest, ""
            yield from self.parse_rows(last)

    def decode(self, piece: bytes, *, final: bool = False) -> str:
        try:
            return self.decoder.decode(piece, final)
        except UnicodeDecodeError:
            raise ValidationFailed(errors=[FieldError("", "encoding", "The file is not UTF-8.")]) from None

    def parse_text(self, text: str) -> Iterator[Record]:
        """Parses the whole rows and keeps the rest; a line end inside quotes belongs to its cell."""
        if end := self.end_of_rows(text):
            whole, self.rest = self.rest + text[:end], text[end:]
            yield from self.parse_rows(whole)
        else:
            self.rest += text
        if len(self.rest) > MAX_RECORD_BYTES:
            raise ValidationFailed(
                errors=[
                    FieldError(
                        "", "record_too_long", f"A row is longer than {MAX_RECORD_BYTES} bytes: a quote may be open."
                    )
                ]
            )

    def end_of_rows(self, text: str) -> int:
        """The end of the last row that ends in this text, 0 where none does. Reads each character once, however many
        line ends are inside quotes.
        """
        parts = text.split('"')
        quoted = self.quoted = self.quoted ^ (len(parts) % 2 == 0)
        end = len(text)
        for part in reversed(parts):
            if not quoted and (line_end := part.rfind("\n")) >= 0:
                return end - len(part) + line_end + 1
            end -= len(part) + 1
            quoted = not quoted
        return 0

    def parse_rows(self, text: str) -> Iterator[Record]:
        # Not `splitlines`, which also ends lines at characters that a name may contain, such as U+2028.
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord("malformed_csv", f"The row is not CSV: {error}.")
                continue
            if self.header is None and row:
                self.header = self.check_header([name.strip() for name in row])
            elif row:
                yield self.parse_row(row)

    def check_header(self, header: list[str]) -> list[str]:
        # The error names the column by number: where the header is missing, the first row is personal data.
        faults = [
            FieldError("/header", "unknown_column", f"column {number} does not name a field")
            for number, name in enumerate(header, 1)
            if name not in self.fields and not name.startswith(METADATA_PREFIX)
        ]
        if len(set(header)) < len(header):
            faults.append(FieldError("/header", "repeated_column", "names a field twice"))
        if faults:
            detail = "The first row must name the field of each column: this one does not."
            raise ValidationFailed(detail, errors=faults[:MAX_HEADER_ERRORS])
        return header

    def parse_row(self, row: list[str]) -> Record:
        assert self.header is not None
        if len(row) != len(self.header):
            return BadRecord("wrong_number_of_cells", f"The row has {len(row)} cells, the header {len(self.header)}.")
        record: dict[str, Any] = {}
        for name, cell in zip(self.header, row, strict=True):
            if cell == "":
                continue
            if name in JSON_COLUMNS:
                parsed = parse_object(cell)
                if isinstance(parsed, BadRecord):
                    return BadRecord(parsed.code, f"{name}: {parsed.detail}")
                record[name] = {**record.get(name, {}), **parsed}
            elif name.startswith(METADATA_PREFIX):
                record.setdefault("metadata", {})[name.removeprefix(METADATA_PREFIX)] = cell
            else:
                record[name] = BOOLEANS.get(cell.lower(), cell) if name in BOOLEAN_COLUMNS else cell
        return record


def make_parser(file_format: str) -> RecordParser:
    """The parser of `ndjson` or `csv`."""
    return NdjsonParser() if file_format == "ndjson" else CsvParser(FIELDS)
