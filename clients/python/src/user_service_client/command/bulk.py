"""The commands on many users: imports, exports, and the feed of changes."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO
from uuid import uuid4

from user_service_client.client import Client
from user_service_client.command.failures import FAILED, SUCCESS, CommandFailed
from user_service_client.command.mapping import map_file, parse_mapping
from user_service_client.command.output import Bar, Output, open_bar
from user_service_client.command.profiles import replace_private
from user_service_client.command.users import read_filters
from user_service_client.cursors import CursorFile
from user_service_client.errors import ConnectionFailed
from user_service_client.imports import FORMATS, hash_content
from user_service_client.models import FileFormat, Import, ImportFailure
from user_service_client.steps import PIECE_BYTES

WORKBOOKS = frozenset({".xlsx", ".xls", ".ods"})
OUTCOMES = ("created", "updated", "skipped", "failed")
SHOWN_FAILURES = 20
FAILURE_COLUMNS = ("record", "line", "code", "field", "detail")
EXPORT_TRIES = 3
CHANGE_COLUMNS = ("time", "type", "user_id", "version", "status", "actor", "changed")
CHANGE_WIDTHS = (19, 14, 36, 7, 9, 24, 20)


def import_users(client: Client, options: Namespace, output: Output) -> int:
    """Exit status 1 if records have failed. The same command resumes an import that was interrupted."""
    file_format = find_format(options.file, options.format)
    mapping = parse_mapping(options.map)
    try:
        with open_file(options.file, file_format, mapping) as file, open_bar() as bar:
            lines = count_lines(file) if bar.is_shown else 0

            def show(current: Import) -> None:
                bar.show(current.line, lines, "lines")

            done = client.users.import_file(
                file,
                file_format=file_format,
                on_conflict=options.on_conflict,
                ignore_unknown_columns=options.unknown_columns == "ignore",
                keep_ids=options.keep_ids,
                dry_run=options.dry_run,
                key=find_key(options, file),
                on_progress=show if bar.is_shown else None,
            )
    except OSError as error:
        raise CommandFailed(f"{options.file}: can't be read ({error.strerror})") from None
    except KeyboardInterrupt:
        print("\nStopped. The same command resumes the import.", file=sys.stderr)
        raise
    print_summary(client, done, output)
    return FAILED if done.failed else SUCCESS


def find_format(file: str, given: FileFormat | None) -> FileFormat:
    """Raises CommandFailed."""
    suffix = Path(file).suffix.lower()
    if given is not None:
        return given
    if suffix in WORKBOOKS:
        raise CommandFailed(f"{file}: a workbook can't be imported; save it as CSV UTF-8")
    if suffix not in FORMATS:
        raise CommandFailed(f"{file}: the name does not tell the format; add --format ndjson or csv")
    return FORMATS[suffix]


def find_key(options: Namespace, file: Path) -> str | None:
    """The Idempotency-Key: the same command has the same one, and so resumes an import; a dry run has its own."""
    if not (options.again or options.dry_run):
        key: str | None = options.key
        return key
    return f"{options.key or hash_content(file)}:{uuid4()}"


@contextmanager
def open_file(name: str, file_format: str, mapping: dict[str, str]) -> Iterator[Path]:
    """The file to send: itself, or a copy of standard input or with other names, which only this account can read."""
    if name != "-" and not mapping:
        yield Path(name)
        return
    with tempfile.NamedTemporaryFile(suffix=f".{file_format}") as copy:
        source: IO[bytes] = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 - closed below
        try:
            if mapping:
                map_file(source, copy, file_format, mapping)
            else:
                while piece := source.read(PIECE_BYTES):
                    copy.write(piece)
        finally:
            if name != "-":
                source.close()
        copy.flush()
        yield Path(copy.name)


def count_lines(file: Path) -> int:
    """Lines that end in LF, CRLF or CR."""
    ends = {b"\n": 0, b"\r": 0}
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            ends = {end: count + piece.count(end) for end, count in ends.items()}
    return max(ends.values())


def print_summary(client: Client, done: Import, output: Output) -> None:
    """For people the counts, the first failures and the number of each kind; in a pipe the import and each failure."""
    failures = client.users.import_failures(done.id) if done.failed else iter(())
    counts = ", ".join(f"{getattr(done, name):,} {name}" for name in OUTCOMES if getattr(done, name)) or "no records"
    said = sys.stdout if output.is_table else sys.stderr
    print(f"{'Would be: ' if done.dry_run else ''}{counts}.", file=said)
    if done.was_done_before and done.finished_at is not None:
        print(f"The import was done before, on {done.finished_at:%Y-%m-%d %H:%M}. --again applies it anew.", file=said)
    if not output.is_table:
        output.record(done)
        output.records(failures, FAILURE_COLUMNS)
        return
    print_failures(failures, output)


def print_failures(failures: Iterator[ImportFailure], output: Output) -> None:
    first = list(islice(failures, SHOWN_FAILURES))
    if not first:
        return
    print()
    output.records(first, FAILURE_COLUMNS)
    more = list(islice(failures, 1))
    if more:
        kinds = Counter(failure.code for failure in chain(first, more, failures))
        print("in all: " + ", ".join(f"{count:,} x {code}" for code, count in kinds.most_common()))
        print("All failures: the same command in a pipe, such as `| cat`.")


def export_users(client: Client, options: Namespace, output: Output) -> int:
    """A file appears when it is complete, and only this account can read it."""
    is_csv = (options.format or FORMATS.get(Path(options.file).suffix.lower(), "ndjson")) == "csv"
    with open_bar() as bar:
        if options.file == "-":
            count = write_export(client, options, sys.stdout.buffer, bar, is_csv=is_csv)
            sys.stdout.buffer.flush()
        else:
            count = export_file(client, options, Path(options.file), bar, is_csv=is_csv)
    print(f"{count:,} users exported.", file=sys.stderr)
    return SUCCESS


def export_file(client: Client, options: Namespace, file: Path, bar: Bar, *, is_csv: bool) -> int:
    for tried in range(EXPORT_TRIES):
        try:
            with replace_private(file) as opened:
                return write_export(client, options, opened, bar, is_csv=is_csv)
        except ConnectionFailed:  # noqa: PERF203 - the loop is the next try
            if tried + 1 == EXPORT_TRIES:
                raise
        except OSError as error:
            raise CommandFailed(f"{file}: can't be written ({error.strerror})") from None
    raise AssertionError("unreachable")


def write_export(client: Client, options: Namespace, file: IO[bytes], bar: Bar, *, is_csv: bool) -> int:
    """Returns the number of users: that of lines of NDJSON, or of rows of CSV without the header."""
    fields = options.fields.split(",") if options.fields else []
    filters = read_filters(options)
    pieces: Iterable[bytes]
    if is_csv:
        pieces, count = client.users.export_csv(fields=fields, **filters), -1
    else:
        pieces, count = client.users.export_lines(fields=fields, **filters), 0
    quotes = 0
    for piece in pieces:
        file.write(piece)
        count += count_rows(piece, quotes) if is_csv else 1
        quotes += piece.count(b'"')
        if count % 1000 == 0 or is_csv:
            bar.show(max(count, 0), None, "users")
    return count


def count_rows(piece: bytes, quotes_before: int) -> int:
    """The ends of rows in a piece of CSV; those between quotes are part of a cell."""
    parts = piece.split(b'"')
    return sum(part.count(b"\n") for number, part in enumerate(parts) if (number + quotes_before) % 2 == 0)


def follow_changes(client: Client, options: Namespace, output: Output) -> int:
    after = CursorFile(options.cursor_file) if options.cursor_file else options.after
    try:
        changes = client.users.changes(after=after, follow=options.follow, change_type=options.type)
        output.records(changes, CHANGE_COLUMNS, CHANGE_WIDTHS)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandFailed(f"{options.cursor_file}: can't be read or written ({error.strerror})") from None
    return SUCCESS
