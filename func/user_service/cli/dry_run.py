"""Files of users as batches, for a dry run."""

from collections.abc import Iterator, Sequence
from typing import Any

from user_service.users.imports.parsers import BadRecord, Record, make_parser
from user_service.users.imports.runner import CHUNK_RECORDS

Failures = list[dict[str, Any]]


def readable_chunks(
    pieces: Iterator[bytes], file_format: str
) -> Iterator[tuple[list[int], list[dict[str, Any]], Failures]]:
    """A thousand records at a time: the numbers of the readable ones, these, and the failures that the others are."""
    start, held = 1, list[Record]()
    for record in records_of(pieces, file_format):
        held.append(record)
        if len(held) == CHUNK_RECORDS:
            yield divide(start, held)
            start, held = start + CHUNK_RECORDS, []
    if held:
        yield divide(start, held)


def records_of(pieces: Iterator[bytes], file_format: str) -> Iterator[Record]:
    reader = make_parser(file_format)
    for piece in pieces:
        yield from reader.feed(piece)
    yield from reader.end()


def divide(start: int, held: Sequence[Record]) -> tuple[list[int], list[dict[str, Any]], Failures]:
    numbered = list(enumerate(held, start))
    bad = [
        {"record": number, "code": record.code, "detail": record.detail, "pointer": None}
        for number, record in numbered
        if isinstance(record, BadRecord)
    ]
    good = [(number, record) for number, record in numbered if not isinstance(record, BadRecord)]
    return [number for number, _ in good], [record for _, record in good], bad


def dry_failures(numbers: Sequence[int], results: Sequence[dict[str, Any]]) -> Failures:
    """The failures of a batch's results, by the numbers of their records."""
    return [
        {
            "record": number,
            "code": result["error"]["code"],
            "detail": result["error"]["detail"],
            "pointer": result["error"].get("pointer", "").partition("/data")[2] or None,
        }
        for number, result in zip(numbers, results, strict=True)
        if result["status"] == "failed"
    ]
