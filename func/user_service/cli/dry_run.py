"""A dry run of an import: the records as batches that change nothing."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import orjson

from user_service.cli.http_client import RequestRefused, ServiceClient
from user_service.cli.import_summary import ImportSummary
from user_service.errors import ValidationFailed
from user_service.users.imports.parsers import BadRecord, Record, make_parser

BATCH_RECORDS: Final = 1000


async def preview_import(
    client: ServiceClient, pieces: Iterator[bytes], *, file_format: str, on_conflict: str
) -> ImportSummary:
    """What an import would do. Duplicates are found within 1,000 records only. Raises RequestRefused."""
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    numbered = enumerate(parse_records(pieces, file_format), 1)
    while chunk := list(islice(numbered, BATCH_RECORDS)):
        items = []
        numbers = []
        for number, record in chunk:
            if isinstance(record, BadRecord):
                counts["failed"] += 1
                failures.append({"record": number, "code": record.code, "detail": record.detail, "pointer": None})
            else:
                numbers.append(number)
                items.append({"data": record})
        body = orjson.dumps({"dry_run": True, "on_conflict": on_conflict, "items": items})
        outcome = await client.request_json("POST", "/batch/create", body, {"Content-Type": "application/json"})
        for number, result in zip(numbers, outcome["items"], strict=True):
            counts[result["status"]] += 1
            if result["status"] == "failed":
                failures.append(describe_failure(number, result["error"]))
    return ImportSummary(counts, failures)


def parse_records(pieces: Iterator[bytes], file_format: str) -> Iterator[Record]:
    parser = make_parser(file_format)
    try:
        for piece in pieces:
            yield from parser.feed(piece)
        yield from parser.end()
    except ValidationFailed as error:
        errors = "".join(f"\n- {fault.pointer} {fault.detail}" for fault in error.errors)
        raise RequestRefused(f"{error.status} {error.code}: {error.detail}{errors}") from None


def describe_failure(number: int, error: dict[str, Any]) -> dict[str, Any]:
    """The error of a batch's item as that of a record: its pointer begins at the record."""
    pointer = error.get("pointer", "").partition("/data")[2] or None
    return {"record": number, "code": error["code"], "detail": error["detail"], "pointer": pointer}
