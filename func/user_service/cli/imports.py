"""`user-service import` and `export`: files of users, against a running service or straight on the database.

Exit status: 0 all fine, 1 some records failed, 2 wrong usage or settings, 3 refused by the service or the database,
130 stopped by Ctrl-C.
"""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from user_service.cli.progress import Progress, progress_on
from user_service.errors import ConfigurationError

EXIT_FINE, EXIT_FAILURES, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 3, 130
PIECE_BYTES: Final = 256 * 1024
SHOWN_FAILURES: Final = 20
FORMATS: Final = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson"}


class TransferRefused(Exception):
    """The service or the database did not take or give the users; the message says why."""


@dataclass(slots=True)
class Summary:
    """What became of a file. `failures` are the first of them, each with `record`, `code`, `detail` and `pointer`."""

    counts: Mapping[str, int]
    failures: list[dict[str, Any]] = field(default_factory=list)
    import_id: str | None = None


class Target(Protocol):
    """Where users are sent to and fetched from. Everything raises TransferRefused."""

    def send(self, pieces: Iterator[bytes], *, file_format: str, on_conflict: str, key: str) -> Summary:
        """Imports a file; the same key goes on with an import that was cut off."""

    def rehearse(self, pieces: Iterator[bytes], *, file_format: str, on_conflict: str) -> Summary:
        """Tells what an import would do, and changes nothing. Chunks of 1,000 do not see each other."""

    def fetch(self, *, deleted: bool) -> Iterator[bytes]:
        """All users as NDJSON."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `import` and `export` to the command line."""
    sending = commands.add_parser("import", help="create users from a file of NDJSON or CSV")
    sending.add_argument("file", type=Path, help="a .ndjson, .jsonl or .csv file")
    sending.add_argument("--format", choices=["ndjson", "csv"], help="what the file is, where its name does not say")
    sending.add_argument("--on-conflict", choices=["fail", "skip", "update"], default="fail")
    sending.add_argument("--key", help="the import's Idempotency-Key (default: from the file's content)")
    sending.add_argument("--dry-run", action="store_true", help="tell what would happen, and change nothing")
    sending.set_defaults(run=run_import)
    fetching = commands.add_parser("export", help="write all users to a file as NDJSON")
    fetching.add_argument("file", type=Path, help="the file to write; - for standard output")
    fetching.add_argument("--include-deleted", action="store_true")
    fetching.set_defaults(run=run_export)
    for command in (sending, fetching):
        command.add_argument("--url", help="a running service; without it, the database of the settings is used")
        command.add_argument("--api-key", help="its API key (default: USER_SERVICE_API_KEY)")


def run_import(options: argparse.Namespace) -> int:
    file_format = options.format or FORMATS.get(options.file.suffix.lower())
    if file_format is None:
        raise ConfigurationError(f"{options.file}: the name does not say what it is; add --format ndjson or csv")
    target = target_of(options)
    try:
        with options.file.open("rb") as file, progress_on(sys.stderr) as progress:
            pieces = pieces_of(file, progress, options.file.stat().st_size)
            if options.dry_run:
                summary = target.rehearse(pieces, file_format=file_format, on_conflict=options.on_conflict)
            else:
                key = options.key or f"file:{digest_of(options.file)}:{options.on_conflict}"
                summary = target.send(pieces, file_format=file_format, on_conflict=options.on_conflict, key=key)
    except OSError as error:
        raise ConfigurationError(f"{options.file}: can't be read ({error.strerror})") from None
    except TransferRefused as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where the import stands.", file=sys.stderr)
        return EXIT_INTERRUPTED
    show(summary, dry_run=options.dry_run)
    return EXIT_FAILURES if summary.counts.get("failed") else EXIT_FINE


def run_export(options: argparse.Namespace) -> int:
    target = target_of(options)
    to_screen = str(options.file) == "-"
    draft = options.file.with_name(options.file.name + ".part")
    count = 0
    try:
        with sys.stdout.buffer if to_screen else draft.open("wb") as file, progress_on(sys.stderr) as progress:
            for piece in target.fetch(deleted=options.include_deleted):
                file.write(piece)
                count += piece.count(b"\n")
                progress.show(count, None, "users")
        if not to_screen:
            draft.replace(options.file)
    except OSError as error:
        raise ConfigurationError(f"{options.file}: can't be written ({error.strerror})") from None
    except TransferRefused as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print(f"\nStopped. What had come is in {draft}.", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"{count:,} users exported.", file=sys.stderr)
    return EXIT_FINE


def target_of(options: argparse.Namespace) -> Target:
    if options.url is not None:
        from user_service.cli.http_client import HttpTarget

        return HttpTarget(options.url, options.api_key)
    from user_service.cli.imports_direct import DirectTarget

    return DirectTarget()


def pieces_of(file: BinaryIO, progress: Progress, size: int) -> Iterator[bytes]:
    done = 0
    while piece := file.read(PIECE_BYTES):
        yield piece
        done += len(piece)
        progress.show(done, size, "bytes")


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def show(summary: Summary, *, dry_run: bool) -> None:
    """The counts, and a table of the first failures with the count of each kind."""
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.counts.items() if count) or "no records"
    print(f"{'Would be: ' if dry_run else ''}{counts}.")
    if not summary.failures:
        return
    kinds = Counter(failure["code"] for failure in summary.failures)
    print("\nrecord      code                    field               what is wrong")
    for failure in sorted(summary.failures, key=itemgetter("record"))[:SHOWN_FAILURES]:
        place = failure.get("pointer") or ""
        print(f"{failure['record']:<11} {failure['code']:<23} {place:<19} {failure['detail']}")
    if len(summary.failures) > SHOWN_FAILURES:
        print("and more: " + ", ".join(f"{count:,} x {code}" for code, count in kinds.most_common()))
    if summary.import_id is not None:
        print(f"\nAll failures: GET /api/v1/users/imports/{summary.import_id}/errors")
