"""What a command prints: tables for people on a terminal, one JSON document a line in a pipe."""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TextIO

GAP = "  "
# Rows whose widths give the columns of a table.
MEASURED_ROWS = 200
BAR_CELLS = 30


class Output:
    """Standard output; `style` is `table` or `json`, None for what suits it."""

    def __init__(self, stream: TextIO, style: str | None) -> None:
        self.stream = stream
        self.is_table = style == "table" or (style is None and stream.isatty())
        self.limit = shutil.get_terminal_size().columns if stream.isatty() else None

    def records(self, records: Iterable[Any], columns: Sequence[str], widths: Sequence[int] | None = None) -> int:
        """Prints records, as a table with these columns; with `widths`, each line at once. Returns their number."""
        documents = map(to_document, records)
        lines = table_lines(documents, columns, widths, self.limit) if self.is_table else map(to_json, documents)
        count = 0
        for line in lines:
            self.stream.write(line + "\n")
            if widths is not None:
                self.stream.flush()
            count += 1
        return count - 1 if self.is_table else count

    def record(self, record: Any) -> None:
        """Prints one record: a line for each of its fields, or one line of JSON."""
        document = to_document(record)
        if not self.is_table:
            self.stream.write(to_json(document) + "\n")
            return
        width = max(map(len, document))
        for name, value in document.items():
            self.stream.write(f"{name:<{width}}{GAP}{to_cell(value)}\n")


def to_document(record: Any) -> dict[str, Any]:
    document: dict[str, Any] = asdict(record) if is_dataclass(record) and not isinstance(record, type) else dict(record)
    return document


def to_json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, default=write_time)


def write_time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(type(value).__name__)


def to_cell(value: Any) -> str:
    """A value on one line, without characters that a terminal would obey."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, (list, tuple)):
        value = " ".join(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=write_time)
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)


def table_lines(
    documents: Iterator[dict[str, Any]], columns: Sequence[str], widths: Sequence[int] | None, limit: int | None
) -> Iterator[str]:
    """The head and the rows; without `widths`, the first rows give them."""
    rows: list[list[str]] = []
    if widths is None:
        first = islice(documents, MEASURED_ROWS)
        rows = [[to_cell(document.get(name)) for name in columns] for document in first]
        widths = [max(map(cell_width, column)) for column in zip(columns, *rows, strict=True)]
    yield table_row([name.upper() for name in columns], widths, limit)
    for row in rows:
        yield table_row(row, widths, limit)
    for document in documents:
        yield table_row([to_cell(document.get(name)) for name in columns], widths, limit)


def table_row(cells: Sequence[str], widths: Sequence[int], limit: int | None) -> str:
    line = GAP.join(cell + " " * (width - cell_width(cell)) for cell, width in zip(cells, widths, strict=True)).rstrip()
    return line if limit is None else shorten(line, limit)


def shorten(line: str, limit: int) -> str:
    if cell_width(line) <= limit:
        return line
    while cell_width(line) > limit - 1:
        line = line[:-1]
    return line + "…"


def cell_width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in {"W", "F"} else 1
        for sign in text
    )


class Bar:
    """A bar of progress on a terminal, with the rate and the time that is left."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_shown = stream.isatty()
        self.begin = time.monotonic()

    def show(self, done: int, total: int | None, unit: str) -> None:
        if not self.is_shown:
            return
        seconds = max(time.monotonic() - self.begin, 0.001)
        rate = done / seconds
        text = f"{done:,} {unit}, {rate:,.0f}/s"
        if total:
            share = min(done / total, 1)
            filled = round(share * BAR_CELLS)
            left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
            text = f"[{'#' * filled}{'-' * (BAR_CELLS - filled)}] {share:4.0%}  {text}{left}"
        self.stream.write(f"\r{text}\x1b[K")
        self.stream.flush()

    def clear(self) -> None:
        if self.is_shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


@contextmanager
def open_bar() -> Iterator[Bar]:
    """A bar on standard error, which is gone at the end."""
    bar = Bar(sys.stderr)
    try:
        yield bar
    finally:
        bar.clear()
