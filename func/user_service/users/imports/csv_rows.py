"""The rows of CSV, line by line. Python's `csv` decides what a cell is and whether a row goes on in the next line.

1. Each line is given to `csv` once. When it ends inside quotes, `csv` asks for another line, and gets none: the row is
   not over.
2. The next line is then given with a quote before it, since it begins inside quotes.
3. The row is over at the first line that does not end inside quotes.

So the cost is linear, and no more than one row is held. A quote opens at the start of a cell only; spaces may precede
it, and follow the one that closes.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from user_service.users.imports.lines import MAX_LINE_BYTES, UnreadableFile

MAX_ROW_CHARACTERS: Final = MAX_LINE_BYTES
SEPARATORS: Final = (",", ";", "\t")
# The line of Excel that names the separator. A spreadsheet that reads it as a row fills the row up with empty cells.
SEPARATOR_LINE: Final = re.compile(r'"?sep=(.?)(.*)\s*', re.IGNORECASE)
MAX_SEPARATOR_SHOWN: Final = 10
# `csv` refuses longer cells in the middle of a line, and would not know whether the next one begins inside quotes.
csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES + 1))


class EndsInsideQuotes(Exception):
    """`csv` asks for the next line of a row."""


class OneLine(Iterator[str]):
    """The line that `csv` reads next."""

    def __init__(self) -> None:
        self.line: str | None = None

    def __next__(self) -> str:
        line, self.line = self.line, None
        if line is None:
            raise EndsInsideQuotes
        return line


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a row, and the line that it begins in."""

    line: int
    cells: list[str]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not CSV: the line that it begins in, and why."""

    line: int
    code: str
    detail: str


class RowReader:
    """Rows from lines."""

    def __init__(self, separator: str) -> None:
        self.separator = separator
        self.source = OneLine()
        self.rows = csv.reader(self.source, delimiter=separator, strict=True, skipinitialspace=True)
        self.spaces_after_quotes = find_spaces_after_quotes(separator)
        # The row that is not over: its cells, and the parts of the cell whose quote is open, None outside of quotes.
        self.cells: list[str] = []
        self.open_cell: list[str] | None = None
        self.size = 0
        self.line = 0
        self.quote_line = 0

    def add(self, line: str, number: int) -> Row | BadRow | None:
        """The row that ends with this line; None when it ends inside quotes."""
        continued = self.open_cell is not None
        if not continued:
            self.line, self.size = number, 0
        self.size += len(line)
        try:
            cells = self.read('"' + line if continued else line)
        except EndsInsideQuotes:
            self.keep(self.unfinished_cells('"' + line if continued else line), number)
            return None
        except csv.Error:
            where = f"; the quote opens in line {self.quote_line}" if continued else ""
            return self.fail("malformed_csv", f"text follows a closing quote{where}: double a quote within quotes")
        if not continued:
            return Row(number, cells)
        if self.size > MAX_ROW_CHARACTERS:
            return self.fail(
                "record_too_long",
                f"the row goes on to line {number} and is longer than {MAX_ROW_CHARACTERS} characters;"
                f" a quote opens in line {self.quote_line}",
            )
        cells[0] = self.join_open_cell(cells[0])
        row = Row(self.line, self.cells + cells)
        self.clear()
        return row

    def end(self, number: int) -> BadRow | None:
        """The row whose quote is still open at the end of the file, after `number` lines."""
        if self.open_cell is None:
            return None
        return self.fail(
            "unclosed_quote",
            f"the quote that opens in line {self.quote_line}, cell {len(self.cells) + 1}, is never closed:"
            f" lines {self.line} to {number} were read as this one record and are not imported",
        )

    def read(self, line: str) -> list[str]:
        """The cells of a line. Raises csv.Error, EndsInsideQuotes."""
        self.source.line = line
        try:
            return next(self.rows)
        except csv.Error:
            self.source.line = self.spaces_after_quotes.sub(lambda found: found[1] or found[0], line)
            return next(self.rows)

    def unfinished_cells(self, line: str) -> list[str]:
        """The cells of a line that ends inside quotes; the last one is open."""
        return next(csv.reader([line], delimiter=self.separator, skipinitialspace=True))

    def keep(self, cells: list[str], number: int) -> None:
        """Adds the cells of a line that ends inside quotes. Of a row that is too long, only the number of cells."""
        if self.open_cell is not None and len(cells) == 1:
            self.open_cell.append(cells[0])
        else:
            if self.open_cell is not None:
                cells[0] = self.join_open_cell(cells[0])
            self.cells += cells[:-1]
            self.open_cell, self.quote_line = [cells[-1]], number
        if self.size > MAX_ROW_CHARACTERS:
            self.open_cell = []
            self.cells = [""] * len(self.cells)

    def join_open_cell(self, last: str) -> str:
        assert self.open_cell is not None
        return "".join([*self.open_cell, last])

    def fail(self, code: str, detail: str) -> BadRow:
        self.clear()
        return BadRow(self.line, code, detail)

    def clear(self) -> None:
        self.cells, self.open_cell = [], None


def find_separator(header: str) -> str:
    """The separator that gives a header the most cells."""
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator))))


def declared_separator(line: str, number: int) -> str | None:
    """The separator of a `sep=` line, as Excel writes it. Raises UnreadableFile for one that is not supported."""
    found = SEPARATOR_LINE.fullmatch(line)
    if found is None:
        return None
    separator, rest = found.groups()
    if separator not in SEPARATORS or rest.strip(' ",;\t\r\n'):
        seen = f"{separator}{rest}".rstrip()[:MAX_SEPARATOR_SHOWN]
        detail = f"sep= must name a comma, a semicolon or a tab, and names {seen!r}: save the file with one of them."
        raise UnreadableFile(number, detail, code="separator")
    return str(separator)


def find_spaces_after_quotes(separator: str) -> re.Pattern[str]:
    """Matches cell by cell. Group 1 is a quoted cell that spaces follow, without these spaces."""
    mark = re.escape(separator)
    quoted = r' *"(?:[^"]|"")*+"'
    return re.compile(
        rf"((?:\A|{mark}){quoted})[^\S\r\n{mark}]+(?={mark}|[\r\n]*\Z)|(?:\A|{mark})(?:{quoted}|[^{mark}]*)"
    )
