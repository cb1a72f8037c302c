"""Imports of files of NDJSON or CSV, which resume after an interruption and apply nothing twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

from user_service_client.errors import UserServiceError
from user_service_client.models import FileFormat, Import, ImportFailure, ImportList, OnConflict
from user_service_client.runners import Resource, iteration, operation
from user_service_client.service import USERS, add_query
from user_service_client.steps import (
    MEDIA_TYPES,
    PIECE_BYTES,
    Emit,
    Emits,
    Reply,
    Request,
    Retry,
    Steps,
    Work,
    exchange,
    parse_as,
    parse_line,
    read_lines,
)

FORMATS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
}
# The response comes after the last record, and the service reads no faster than it writes.
IMPORT_SECONDS = 300
# The blocking client waits for a look at the progress before it returns the import.
PROGRESS_SECONDS = 1.0


class ImportMethods(Resource):
    @operation
    def import_file(
        self,
        path: str | os.PathLike[str],
        /,
        *,
        file_format: FileFormat | None = None,
        on_conflict: OnConflict = "fail",
        ignore_unknown_columns: bool = False,
        keep_ids: bool = False,
        dry_run: bool = False,
        key: str | None = None,
        on_progress: Callable[[Import], None] | None = None,
    ) -> Steps[Import]:
        """Imports a file, and resumes it as long as it advances. Returns the import, with the number of failed records.

        The import is known by `key`, or by the file's content: the same call in another process resumes it, and changes
        nothing once it is complete. `on_progress` gets the import while it is under way; the blocking client calls
        it from another thread. Raises ValueError if the file's name does not tell its format, OSError, ImportDiffers.
        """
        file = Path(path)
        file_format = file_format or find_format(file)
        if key is None:
            content = yield Work(lambda: hash_content(file))
            parts = ["file", content, file_format, on_conflict, *(["ids"] if keep_ids else [])]
            # A dry run changes nothing, and may be repeated.
            key = ":".join([*parts, *(["dry", str(uuid4())] if dry_run else [])])
        import_key = key
        parameters = {"on_conflict": on_conflict, "unknown_columns": "ignore" if ignore_unknown_columns else "fail"}
        flags = {"keep_ids": keep_ids, "dry_run": dry_run}
        tries = 0

        def read_pieces() -> Iterator[bytes]:
            nonlocal tries
            tries += 1
            with file.open("rb") as opened:
                while piece := opened.read(PIECE_BYTES):
                    yield piece

        def parse(reply: Reply) -> Import:
            is_replay = reply.headers.get("idempotency-replayed") == "true"
            return replace(parse_as(Import)(reply), was_done_before=is_replay and tries == 1)

        request = Request(
            "POST",
            add_query(f"{USERS}/imports", parameters | {name: "true" for name, is_set in flags.items() if is_set}),
            {"Content-Type": MEDIA_TYPES[file_format], "Idempotency-Key": import_key},
            read_pieces,
            watch=None if on_progress is None else lambda: report_progress(self, import_key, on_progress),
        )
        position = -1
        while True:
            try:
                return (yield from exchange(request, parse, self.service.retry, timeout_seconds=IMPORT_SECONDS))
            except UserServiceError as error:  # noqa: PERF203 - the loop is the next try
                if not error.is_transient:
                    raise
                found = yield from find_import(self, import_key)
                if found is None or found.position <= position:
                    raise
                position = found.position

    @operation
    def get_import(self, import_id: str | UUID, /) -> Steps[Import]:
        """Raises NotFound."""
        return self.service.read(Import, f"{USERS}/imports/{UUID(str(import_id))}")

    @operation
    def find_import(self, key: str, /) -> Steps[Import | None]:
        """The import that this caller has started with a key."""
        return find_import(self, key)

    @iteration
    def import_failures(self, import_id: str | UUID, /) -> Emits[ImportFailure]:
        """The records that failed. Raises ConnectionFailed if the list is cut off: begin again."""
        parse = parse_line(ImportFailure, "failure")
        request = Request("GET", f"{USERS}/imports/{UUID(str(import_id))}/errors")
        yield from self.service.open(request, "ndjson")
        yield from read_lines(lambda line: [Emit(parse(line))])


def find_format(file: Path) -> FileFormat:
    """Raises ValueError."""
    try:
        return FORMATS[file.suffix.lower()]
    except KeyError:
        raise ValueError(f"{file}: the name does not tell whether it is ndjson or csv") from None


def hash_content(file: Path) -> str:
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            content.update(piece)
    return content.hexdigest()[:32]


def find_import(self: Resource, key: str) -> Steps[Import | None]:
    found = yield from self.service.call(find_request(key), parse_as(ImportList))
    return found.items[0] if found.items else None


def report_progress(self: Resource, key: str, on_progress: Callable[[Import], None]) -> Steps[None]:
    retry = Retry(deadline_seconds=0)
    found = yield from exchange(find_request(key), parse_as(ImportList), retry, timeout_seconds=PROGRESS_SECONDS)
    if found.items:
        on_progress(found.items[0])


def find_request(key: str) -> Request:
    return Request("GET", add_query(f"{USERS}/imports", {"key": key}))
