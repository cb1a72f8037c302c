"""Parsers of NDJSON and CSV files of users: a stream of records with their lines, of any length in bounded memory."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Final

from user_service.users.imports.csv_columns import Header, UnknownColumns, parse_header
from user_service.users.imports.csv_rows import BadRow, Row, RowReader, declared_separator, find_separator
from user_service.users.imports.lines import (
    JSON_ARRAY,
    MAX_LINE_BYTES,
    SAVE_AS_CSV,
    FileStart,
    LineSplitter,
    UnreadableFile,
)
from user_service.users.imports.records import RECORD_TOO_LONG, BadRecord, NumberedRecord, parse_object

JSON_OVER_LINES: Final = (
    "the file is JSON with an object over several lines: send one object a line, as `jq -c . users.json` writes."
)
CSV_HEADER: Final = re.compile(rb'(?:^|[,;\t"])(?:email|external_id|id)(?:$|[,;\t"])', re.IGNORECASE)


class RecordParser(ABC):
    """Parses a file piece by piece. Raises UnreadableFile when the file can't be read from here on."""

    def __init__(self) -> None:
        self.start = FileStart()
        self.splitter = LineSplitter()
        # The number of lines that have been read.
        self.line = 0

    def feed(self, piece: bytes) -> Iterator[NumberedRecord]:
        yield from self.parse(self.splitter.feed(self.start.feed(piece)))

    def end(self) -> Iterator[NumberedRecord]:
        yield from self.parse(self.splitter.feed(self.start.feed(b"", final=True)))
        yield from self.parse(self.splitter.end())

    @abstractmethod
    def parse(self, lines: Iterable[bytes]) -> Iterator[NumberedRecord]:
        """The records that end in these lines."""


class NdjsonParser(RecordParser):
    """One JSON object a line (UTF-8); blank lines are skipped and not numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = False

    def parse(self, lines: Iterable[bytes]) -> Iterator[NumberedRecord]:
        for line in lines:
            self.line += 1
            text = line.strip()
            if text and not self.has_begun:
                self.has_begun = True
                self.check_first(text)
            if len(line) > MAX_LINE_BYTES:
                yield self.line, RECORD_TOO_LONG
            elif text:
                yield self.line, parse_object(text, "line")

    def check_first(self, text: bytes) -> None:
        """Raises UnreadableFile for the first line of a file of another kind."""
        if text.startswith(b"["):
            raise UnreadableFile(self.line, JSON_ARRAY, code="json_array")
        if text == b"{":
            raise UnreadableFile(self.line, JSON_OVER_LINES, code="wrong_format")
        if not text.startswith(b"{") and CSV_HEADER.search(text):
            raise UnreadableFile(self.line, "the file is CSV: send it as text/csv.", code="wrong_format")


class CsvParser(RecordParser):
    """RFC 4180, and what spreadsheets make of it, with a header of field names.

    `preferences` and `metadata` hold JSON, `metadata.plan` holds one value.
    """

    def __init__(self, unknown_columns: UnknownColumns = "fail") -> None:
        super().__init__()
        self.unknown_columns: UnknownColumns = unknown_columns
        self.rows: RowReader | None = None
        self.separator: str | None = None
        self.header: Header | None = None
        # Whether all lines of the row so far are UTF-8.
        self.is_utf8 = True

    def parse(self, lines: Iterable[bytes]) -> Iterator[NumberedRecord]:
        for line in lines:
            self.line += 1
            if len(line) > MAX_LINE_BYTES:
                detail = f"the line is longer than {MAX_LINE_BYTES} bytes: line ends may be missing."
                raise UnreadableFile(self.line, detail, code="record_too_long")
            text = self.decode(line)
            rows = self.rows or self.begin(text)
            if rows is not None and (row := rows.add(text, self.line)) is not None:
                yield from self.parse_row(row)

    def end(self) -> Iterator[NumberedRecord]:
        yield from super().end()
        if self.rows is not None and (row := self.rows.end(self.line)) is not None:
            yield from self.parse_row(row)

    def decode(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.is_utf8 = False
            return line.decode(errors="surrogateescape")

    def begin(self, text: str) -> RowReader | None:
        """The reader of rows; None while the header is still to come."""
        if not text.strip():
            return None
        if self.separator is None and (separator := declared_separator(text, self.line)) is not None:
            self.separator = separator
            return None
        self.rows = RowReader(self.separator or find_separator(text))
        return self.rows

    def parse_row(self, row: Row | BadRow) -> Iterator[NumberedRecord]:
        is_utf8, self.is_utf8 = self.is_utf8, True
        if self.header is None:
            self.header = self.begin_records(row, is_utf8=is_utf8)
        elif isinstance(row, BadRow):
            yield row.line, BadRecord(row.code, f"The row can't be read: {row.detail}.")
        elif (record := self.header.make_record(row, is_utf8=is_utf8)) is not None:
            yield row.line, record

    def begin_records(self, row: Row | BadRow, *, is_utf8: bool) -> Header | None:
        """The header in a row; None for a blank row before it."""
        if isinstance(row, BadRow):
            raise UnreadableFile(row.line, f"the header can't be read: {row.detail}.", code=row.code)
        if not is_utf8:
            raise UnreadableFile(row.line, f"the header is not UTF-8: {SAVE_AS_CSV}.", code="encoding")
        return parse_header(row, self.unknown_columns) if any(map(str.strip, row.cells)) else None


def make_parser(file_format: str, *, unknown_columns: UnknownColumns = "fail") -> RecordParser:
    """The parser of `ndjson` or `csv`."""
    return NdjsonParser() if file_format == "ndjson" else CsvParser(unknown_columns)
