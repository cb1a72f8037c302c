"""The command line: `user-service serve | migrate | relay | events | prune | reencrypt | reindex | doctor | keys`.

Each command is the function `run` of a module of this package, which is imported when the command runs.
"""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from user_service import __version__
from user_service.errors import EXIT_CONFIGURATION, EXIT_INTERRUPTED, CommandFailed, ConfigurationError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0 success, 1 failed, 2 wrong usage or settings, 130 Ctrl-C."""
    options = vars(build_parser().parse_args(arguments))
    module = options.pop("module")
    if module == "serve":
        # Until the API is loaded (web/api_loader.py): a start produces hardly any garbage.
        gc.disable()
    try:
        status: int = import_module(f"user_service.cli.{module}").run(os.environ, **options)
        return status
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
    add(commands, "serve", "serve", "start the service; without DATABASE_URL on an embedded PostgreSQL")
    migrate = add(commands, "migrate", "migrate", "bring the database to the newest revision")
    migrate.add_argument("--to", default="head", metavar="REVISION", help="a revision, or `base` (default: head)")
    migrate.add_argument("--down", action="store_true", help="go back to REVISION instead of forward")
    migrate.add_argument(
        "--distribute", action="store_true", help="then distribute the tables over the servers of a Citus cluster"
    )
    relay = add(commands, "relay", "relay", "post the pending events of the outbox to the sink")
    relay.add_argument("--watch", action="store_true", help="run until stopped instead of once")
    add_events(commands)
    add(
        commands,
        "prune",
        "prune",
        "remove what is past its retention: deleted users, changes, replies, responses, imports",
    )
    add(commands, "doctor", "doctor", "check settings, keys, database, migrations and Redis, and print remedies")
    add_keys(commands)
    add(
        commands,
        "reindex",
        "reindex",
        "write the search terms of all users again, for SEARCH_PREFIXES or a new version",
    )
    again = add(commands, "reencrypt", "reencrypt", "encrypt rows again under the first ENCRYPTION_KEY")
    again.add_argument("--batch-size", type=int, default=1000, metavar="ROWS", help="rows at a time (default: 1000)")
    again.add_argument("--dry-run", action="store_true", help="count the rows by key, and change nothing")
    again.add_argument("--go-back", action="store_true", help="return to a key that was retired before")
    return parser


def add_keys(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = add(commands, "keys", "keys", "make an encryption key or an API key, or show the key of the blind index")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    for action, summary in (("new", "make an encryption key"), ("blind-index", "show the key of the blind index")):
        add(actions, action, "keys", summary).set_defaults(action=action)
    api = add(actions, "api", "api_keys", "make an API key with a name and scopes; list the keys without a name")
    api.add_argument("name", nargs="?", help="of the client, such as billing; it is the actor in the audit trail")
    api.add_argument("--scopes", help="what it may do, such as users:read,users:write")
    api.add_argument(
        "--expires", metavar="WHEN", help="days as 90d, a date, or a time in RFC 3339 format (default: never)"
    )
    api.add_argument(
        "--file", type=Path, help="add it to this file, as API_KEYS_FILE names it (default: print API_KEYS)"
    )


def add_events(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "post the events of past changes, or dead letters, to the sink again, with the ids that they had"
    events = add(commands, "events", "events", summary)
    events.add_argument("action", choices=["replay"])
    events.add_argument("--since", metavar="TIME", help="changes from this time on, as 2026-01-31T12:00:00Z")
    events.add_argument("--until", metavar="TIME", help="changes before this time")
    events.add_argument("--type", dest="types", action="append", default=[], help="one type, as `created`; repeatable")
    events.add_argument("--after", type=int, metavar="POSITION", help="continue where the command has stopped")
    events.add_argument(
        "--dead-letters",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="instead of changes: events, or Secrets of a JobSink, as JSON; - for standard input",
    )
    events.add_argument("--dry-run", action="store_true", help="count the events, and post none")


def add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, module: str, summary: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(module=module)
    return command


if __name__ == "__main__":
    sys.exit(main())
