"""`user-service import`: creates users from a file, through a running service.

Exit status: 0 all records were imported, 1 some records failed, 2 wrong usage or settings, 3 the service refused the
import or did not respond, 130 Ctrl-C.
"""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import orjson

from user_service.cli.http_client import PIECE_BYTES, RequestRefused, ServiceClient, open_client
from user_service.cli.import_summary import ImportSummary, print_summary
from user_service.cli.progress import Progress, open_progress
from user_service.errors import EXIT_FAILED, ConfigurationError
from user_service.values.media_types import USER_FILES

FORMATS: Final = {".csv": "csv", ".tsv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson"}
WORKBOOKS: Final = frozenset({".xlsx", ".xls", ".ods"})
OUTCOMES: Final = ("created", "updated", "skipped", "failed")
MAX_FAILURES: Final = 10_000
POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class ImportCommand:
    """What to import, and how. Without a `key`, it is made from the file's content; `again` makes another one."""

    file: Path
    file_format: str | None = None
    on_conflict: str = "fail"
    unknown_columns: str = "fail"
    keep_ids: bool = False
    dry_run: bool = False
    key: str | None = None
    again: bool = False

    def find_format(self) -> str:
        """Raises ConfigurationError."""
        suffix = self.file.suffix.lower()
        file_format = self.file_format or FORMATS.get(suffix)
        if file_format is None and suffix in WORKBOOKS:
            raise ConfigurationError(f"{self.file}: a workbook can't be imported; save it as CSV UTF-8")
        if file_format is None:
            raise ConfigurationError(f"{self.file}: the name does not tell the format; add --format ndjson or csv")
        return file_format

    def find_key(self, content_hash: str) -> str:
        """The Idempotency-Key. The same command has the same key, and so resumes an import; a dry run has its own."""
        if self.key is not None and not self.again:
            return self.key
        key = self.key or f"file:{content_hash}:{self.on_conflict}{':ids' if self.keep_ids else ''}"
        return f"{key}:{uuid4()}" if self.again or self.dry_run else key

    @property
    def query(self) -> str:
        parameters = {"on_conflict": self.on_conflict, "unknown_columns": self.unknown_columns}
        flags = {"keep_ids": self.keep_ids, "dry_run": self.dry_run}
        return urlencode(parameters | {name: "true" for name, is_set in flags.items() if is_set})


def run(environ: Mapping[str, str], *, url: str | None, api_key: str | None, **options: Any) -> int:
    """Imports a file and prints the outcome; `options` are those of ImportCommand.

    Raises ConfigurationError, RequestRefused.
    """
    client = open_client(url, api_key, environ)
    command = ImportCommand(**options)
    file_format = command.find_format()
    try:
        with open_progress(sys.stderr) as progress:
            content_hash, lines = examine_file(command.file)
            key = command.find_key(content_hash)
            summary = asyncio.run(send_file(client, command, file_format, key, progress, lines))
    except OSError as error:
        raise ConfigurationError(f"{command.file}: can't be read ({error.strerror})") from None
    except KeyboardInterrupt:
        print("\nStopped. The same command resumes the import.", file=sys.stderr)
        raise
    print_summary(summary, dry_run=command.dry_run)
    return EXIT_FAILED if summary.counts.get("failed") else 0


async def send_file(
    client: ServiceClient, command: ImportCommand, file_format: str, key: str, progress: Progress, lines: int
) -> ImportSummary:
    headers = {"Content-Type": USER_FILES[file_format], "Idempotency-Key": key}
    watching = asyncio.create_task(watch(client, key, progress, lines)) if progress.is_shown else None
    try:
        pieces = read_pieces(command.file)
        async with client.request("POST", f"/imports?{command.query}", pieces, headers) as response:
            found = orjson.loads(await response.read())
            is_replay = response.headers.get("Idempotency-Replayed") == "true"
    finally:
        if watching is not None:
            watching.cancel()
    failures = await fetch_failures(client, found["id"]) if found["failed"] else []
    counts = {name: found[name] for name in OUTCOMES}
    return ImportSummary(counts, failures, found["id"], done_before=found["finished_at"] if is_replay else None)


async def watch(client: ServiceClient, key: str, progress: Progress, lines: int) -> None:
    """Shows how much of the file the service has applied, which is less than it has received."""
    while True:
        with suppress(RequestRefused):
            async with client.request("GET", f"/imports?{urlencode({'key': key})}") as response:
                for found in orjson.loads(await response.read())["items"]:
                    progress.show(found["line"], lines, "lines")
        await asyncio.sleep(POLL_SECONDS)


async def read_pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


async def fetch_failures(client: ServiceClient, import_id: str) -> list[dict[str, Any]]:
    async with client.request("GET", f"/imports/{import_id}/errors") as response:
        lines = (await response.read()).splitlines()
    return [orjson.loads(line) for line in lines[:MAX_FAILURES]]


def examine_file(path: Path) -> tuple[str, int]:
    """A hash of the file's content, and the number of its lines, which end in LF, CRLF or CR. Raises OSError."""
    content, ends = hashlib.sha256(), {b"\n": 0, b"\r": 0}
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            content.update(piece)
            ends = {end: count + piece.count(end) for end, count in ends.items()}
    return content.hexdigest()[:32], max(ends.values())
