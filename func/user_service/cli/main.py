"""The command line: `user-service serve | migrate | import | export | relay | prune | reencrypt | doctor | keys`.

Each command imports what it needs.
"""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from user_service import __version__
from user_service.errors import EXIT_CONFIGURATION, EXIT_INTERRUPTED, CommandFailed, ConfigurationError

MAX_BATCH_SIZE: Final = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0 success, 1 failed, 2 wrong usage or settings, 130 Ctrl-C."""
    options = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="user-service", description="The user directory of a microservice backend.")
    parser.add_argument("--version", action="version", version=f"user-service {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add(commands, "serve", run_serve, "start the service; without DATABASE_URL on an embedded PostgreSQL")
    migrate = add(commands, "migrate", run_migrate, "bring the database to the newest revision")
    migrate.add_argument("--to", default="head", metavar="REVISION", help="a revision, or `base` (default: head)")
    migrate.add_argument("--down", action="store_true", help="go back to REVISION instead of forward")
    relay = add(commands, "relay", run_relay, "post the pending events of the outbox to the sink")
    relay.add_argument("--watch", action="store_true", help="run until stopped instead of once")
    add(commands, "prune", run_prune, "remove rows past their retention: old changes, replies, responses and imports")
    add(
        commands,
        "doctor",
        run_doctor,
        "check settings, keys, database, migrations and Redis, and print remedies",
    )
    keys = add(commands, "keys", run_keys, "make an encryption key, or show the key of the blind index")
    keys.add_argument("action", choices=["new", "blind-index"])
    again = add(commands, "reencrypt", run_reencrypt, "encrypt rows again under the first ENCRYPTION_KEY")
    again.add_argument("--batch-size", type=int, default=1000, metavar="ROWS", help="rows at a time (default: 1000)")
    again.add_argument("--dry-run", action="store_true", help="count the rows by key, and change nothing")
    again.add_argument("--go-back", action="store_true", help="return to a key that was retired before")
    importing = add(commands, "import", run_import, "create users of a running service from a file of NDJSON or CSV")
    importing.add_argument("file", type=Path, help="a .ndjson, .jsonl or .csv file")
    importing.add_argument("--format", choices=["ndjson", "csv"], help="the format, if the file's name does not tell")
    importing.add_argument("--on-conflict", choices=["fail", "skip", "update"], default="fail")
    importing.add_argument("--key", help="the import's Idempotency-Key (default: from the file's content)")
    importing.add_argument("--dry-run", action="store_true", help="report what would happen, and change nothing")
    exporting = add(commands, "export", run_export, "write all users of a running service to a file as NDJSON")
    exporting.add_argument("file", type=Path, help="the file to write; - for standard output")
    exporting.add_argument("--include-deleted", action="store_true")
    for command in (importing, exporting):
        command.add_argument("--url", help="the service (default: http://localhost:PORT)")
        command.add_argument("--api-key", help="its API key (default: USER_SERVICE_API_KEY)")
    return parser


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run)
    return command


def run_serve(options: argparse.Namespace) -> int:
    # Until the API is loaded (app.py): a start produces hardly any garbage.
    gc.disable()
    from user_service.cli.serve import serve

    return serve(os.environ)


def run_migrate(options: argparse.Namespace) -> int:
    from user_service.cli.migrate import migrate

    return migrate(os.environ, to=options.to, down=options.down)


def run_relay(options: argparse.Namespace) -> int:
    from user_service.cli.relay import relay

    return relay(os.environ, watch=options.watch)


def run_prune(options: argparse.Namespace) -> int:
    from user_service.cli.prune import prune

    return prune(os.environ)


def run_doctor(options: argparse.Namespace) -> int:
    from user_service.cli.doctor import examine

    return examine(os.environ)


def run_keys(options: argparse.Namespace) -> int:
    from user_service.cli.keys import print_blind_index_key, print_new_key

    return print_new_key() if options.action == "new" else print_blind_index_key(os.environ)


def run_reencrypt(options: argparse.Namespace) -> int:
    from user_service.cli.reencrypt import count, reencrypt

    if not 1 <= options.batch_size <= MAX_BATCH_SIZE:
        raise ConfigurationError(f"--batch-size: expected a whole number from 1 to {MAX_BATCH_SIZE}")
    if options.dry_run:
        return count(os.environ, batch_size=options.batch_size)
    return reencrypt(os.environ, batch_size=options.batch_size, go_back=options.go_back)


def run_import(options: argparse.Namespace) -> int:
    from user_service.cli.http_client import open_client
    from user_service.cli.imports import import_users

    client = open_client(options.url, options.api_key, os.environ)
    return import_users(
        client,
        options.file,
        file_format=options.format,
        on_conflict=options.on_conflict,
        key=options.key,
        dry_run=options.dry_run,
    )


def run_export(options: argparse.Namespace) -> int:
    from user_service.cli.exports import export_users
    from user_service.cli.http_client import open_client

    client = open_client(options.url, options.api_key, os.environ)
    return export_users(client, options.file, include_deleted=options.include_deleted)


if __name__ == "__main__":
    sys.exit(main())
