"""`user-service import`: creates users from a file, through a running service.

Exit status: 0 all records were imported, 1 some records failed, 2 wrong usage or settings, 3 the service refused the
import or did not respond, 130 Ctrl-C.
"""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from user_service.cli.http_client import PIECE_BYTES, ServiceClient, open_client
from user_service.cli.import_summary import ImportSummary, print_summary
from user_service.cli.progress import Progress, progress_on
from user_service.errors import EXIT_FAILED, ConfigurationError

FORMATS: Final = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson"}
CONTENT_TYPES: Final = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
OUTCOMES: Final = ("created", "updated", "skipped", "failed")
MAX_FAILURES: Final = 10_000


def run(
    environ: Mapping[str, str],
    *,
    file: Path,
    file_format: str | None,
    on_conflict: str,
    key: str | None,
    dry_run: bool,
    url: str | None,
    api_key: str | None,
) -> int:
    """Imports a file and prints the outcome; with `dry_run`, changes nothing.

    `key` is the Idempotency-Key, by default from the file's content, so that the same command resumes an import.
    Raises ConfigurationError, RequestRefused.
    """
    client = open_client(url, api_key, environ)
    file_format = file_format or FORMATS.get(file.suffix.lower())
    if file_format is None:
        raise ConfigurationError(f"{file}: the name does not tell the format; add --format ndjson or csv")
    try:
        with file.open("rb") as stream, progress_on(sys.stderr) as progress:
            pieces = read_pieces(stream, progress, file.stat().st_size)
            if dry_run:
                from user_service.cli.dry_run import preview_import

                work = preview_import(client, pieces, file_format=file_format, on_conflict=on_conflict)
            else:
                key = key or f"file:{hash_file(file)}:{on_conflict}"
                work = send_file(client, pieces, file_format=file_format, on_conflict=on_conflict, key=key)
            summary = asyncio.run(work)
    except OSError as error:
        raise ConfigurationError(f"{file}: can't be read ({error.strerror})") from None
    except KeyboardInterrupt:
        print("\nStopped. The same command resumes the import.", file=sys.stderr)
        raise
    print_summary(summary, dry_run=dry_run)
    return EXIT_FAILED if summary.counts.get("failed") else 0


async def send_file(
    client: ServiceClient, pieces: Iterator[bytes], *, file_format: str, on_conflict: str, key: str
) -> ImportSummary:
    headers = {"Content-Type": CONTENT_TYPES[file_format], "Idempotency-Key": key}
    found = await client.request_json("POST", f"/imports?on_conflict={on_conflict}", send_pieces(pieces), headers)
    failures = await fetch_failures(client, found["id"]) if found["failed"] else []
    return ImportSummary({name: found[name] for name in OUTCOMES}, failures, found["id"])


async def send_pieces(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def fetch_failures(client: ServiceClient, import_id: str) -> list[dict[str, Any]]:
    async with client.request("GET", f"/imports/{import_id}/errors") as response:
        lines = (await response.read()).splitlines()
    return [orjson.loads(line) for line in lines[:MAX_FAILURES]]


def read_pieces(file: BinaryIO, progress: Progress, size: int) -> Iterator[bytes]:
    done = 0
    while piece := file.read(PIECE_BYTES):
        yield piece
        done += len(piece)
        progress.show(done, size, "bytes")


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
