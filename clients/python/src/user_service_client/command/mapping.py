"""`--map`: a file whose columns or members have other names than the service's fields."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import IO, Any

from user_service_client.command.failures import CommandFailed
from user_service_client.command.fields import shown
from user_service_client.steps import PIECE_BYTES

SEPARATORS = ",;\t"
HEADER_BYTES = 256 * 1024
BOM = b"\xef\xbb\xbf"


def parse_mapping(arguments: Iterable[str]) -> dict[str, str]:
    """`NAME=field`: names of the file, in any case, and the fields that they are. Raises CommandFailed."""
    mapping: dict[str, str] = {}
    for argument in arguments:
        name, separator, field = argument.rpartition("=")
        name, field = name.strip().lower(), field.strip()
        if not separator or not name or not field:
            raise CommandFailed(f"--map: {shown(argument)}: expected NAME=field, such as 'E-Mail=email'")
        if name in mapping or field in mapping.values():
            raise CommandFailed(f"--map: {shown(argument)}: the name or the field is there twice")
        mapping[name] = field
    return mapping


def map_file(source: IO[bytes], target: IO[bytes], file_format: str, mapping: Mapping[str, str]) -> None:
    """Copies a file with other names. Raises CommandFailed if a name is not in its header."""
    if file_format == "csv":
        map_header(source, target, mapping)
        while piece := source.read(PIECE_BYTES):
            target.write(piece)
    else:
        for line in source:
            target.write(map_line(line, mapping))


def map_header(source: IO[bytes], target: IO[bytes], mapping: Mapping[str, str]) -> None:
    head = source.read(HEADER_BYTES)
    body = head.removeprefix(BOM)
    separator = None
    if body[:4].lower() == b"sep=":
        line, body = split_line(body)
        separator = line[4:5].decode("latin-1")
    header, rest = split_line(body)
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandFailed("--map: the header is not UTF-8") from None
    if text.count('"') % 2 or (not rest and len(head) == HEADER_BYTES):
        raise CommandFailed("--map: the header is longer than a line")
    separator = separator or max(SEPARATORS, key=text.count)
    names = [name.strip() for name in next(csv.reader([text], delimiter=separator), [])]
    if missing := mapping.keys() - {name.lower() for name in names}:
        raise CommandFailed(f"--map: the file has no column {shown(min(missing))}")
    mapped = io.StringIO(newline="")
    csv.writer(mapped, delimiter=separator).writerow([mapping.get(name.lower(), name) for name in names])
    target.write(b"sep=" + separator.encode() + b"\r\n" + mapped.getvalue().encode() + rest)


def split_line(text: bytes) -> tuple[bytes, bytes]:
    """The first line without its end (LF, CRLF or CR), and the rest."""
    line = text.splitlines()[0] if text else b""
    rest = text[len(line) :]
    return line, rest[2:] if rest.startswith(b"\r\n") else rest[1:]


def map_line(line: bytes, mapping: Mapping[str, str]) -> bytes:
    """A line that is no JSON object stays as it is: the service names its fault."""
    try:
        record = json.loads(line.removeprefix(BOM))
    except (ValueError, RecursionError):
        return line
    if not isinstance(record, dict):
        return line
    mapped: dict[str, Any] = {}
    for name, value in record.items():
        field = mapping.get(name.strip().lower(), name)
        head, dot, key = field.partition(".")
        if dot and head == "metadata" and isinstance(mapped.setdefault(head, {}), dict):
            mapped[head][key] = value
        elif field == "metadata" and isinstance(value, dict):
            mapped.setdefault(field, {}).update(value)
        else:
            mapped[field] = value
    return json.dumps(mapped, ensure_ascii=False).encode() + b"\n"
