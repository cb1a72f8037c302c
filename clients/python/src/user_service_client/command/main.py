"""The command `users`: a directory of the User Service in a shell.

Exit status: 0 success, 1 no user was found or some records failed, 2 wrong usage or settings, 3 the service refused the
request or did not respond, 130 Ctrl-C.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Callable, Sequence
from typing import get_args

from user_service_client.client import Client
from user_service_client.command import bulk, users
from user_service_client.command.completion import make_script
from user_service_client.command.failures import INTERRUPTED, REFUSED, SUCCESS, CommandFailed
from user_service_client.command.output import Output
from user_service_client.command.profiles import Profiles, ask_key, make_client, open_client
from user_service_client.errors import ConnectionFailed, ServiceError, UserServiceError
from user_service_client.models import AuditType, ChangeType, FileFormat, OnConflict, Status
from user_service_client.service import VERSION
from user_service_client.steps import Retry

Run = Callable[[Client, Namespace, Output], int]
USER_HELP = "an id, an e-mail address, an external id or a username"
FIELDS_HELP = "field=value; an empty value clears it; field:=JSON; metadata.KEY=value; or - for JSON on standard input"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    # The repeated tries of a request are told by the error that ends them.
    logging.getLogger("user_service_client").addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        status = run(options, parser)
        sys.stdout.flush()
        return status
    except CommandFailed as error:
        print(error, file=sys.stderr)
        return error.status
    except UserServiceError as error:
        print(describe(error), file=sys.stderr)
        return REFUSED
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has enough, as `head` does; Python's own flush at the end would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SUCCESS
    except KeyboardInterrupt:
        return INTERRUPTED


def run(options: Namespace, parser: ArgumentParser) -> int:
    if options.command == "completion":
        sys.stdout.write(make_script(parser, options.shell))
        return SUCCESS
    if options.command == "profile":
        return change_profiles(options, Output(sys.stdout, options.output))
    command: Run = options.run
    with open_client(os.environ, options.profile, options.url, Retry(deadline_seconds=options.wait)) as client:
        if options.reason:
            client.users = client.users.because(options.reason)
        return command(client, options, Output(sys.stdout, options.output))


def describe(error: UserServiceError) -> str:
    """What the service said, with a line for each fault; or why there was no response, with a remedy."""
    if isinstance(error, ServiceError):
        faults = "".join(f"\n- {fault.pointer} {fault.detail}" for fault in error.errors)
        return f"{error.status} {error.code}: {error.detail} (request {error.request_id}){faults}"
    if isinstance(error, ConnectionFailed):
        return f"{error}. Check that the service runs there, or name another --url or --profile."
    return str(error)


def change_profiles(options: Namespace, output: Output) -> int:
    profiles = Profiles.of_this_account(os.environ)
    if options.action == "list":
        entries = profiles.load().items()
        output.records(({"name": name, "url": entry.get("url")} for name, entry in entries), ("name", "url"))
    elif options.name is None:
        raise CommandFailed(f"profile {options.action}: name a profile")
    elif options.action == "remove":
        profiles.remove(options.name)
    else:
        if options.address is None:
            raise CommandFailed("profile add: give the address of the service, such as https://users.example.org")
        key = ask_key()
        make_client(options.address, key, Retry()).close()
        place = profiles.add(options.name, options.address, key, in_file=options.file)
        print(f"The key is in {place}.", file=sys.stderr)
    return SUCCESS


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="users", description="Users of the User Service.")
    parser.add_argument("--version", action="version", version=f"users {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    finding = add(commands, "find", users.find, "list users: words of their names, an address, filters")
    finding.add_argument("words", nargs="*", metavar="WORD")
    finding.add_argument("--sort", choices=list(users.SORTS), default="oldest", help="(default: oldest)")
    finding.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many; 0 for all (default: 50)")
    add_filters(finding)
    showing = add(commands, "show", users.show, "one user with all fields")
    showing.add_argument("user", help=USER_HELP)
    showing.add_argument("--deleted", action="store_true", help="a deleted user too, by its id")
    creating = add(commands, "create", users.create, "create a user")
    creating.add_argument("fields", nargs="+", metavar="FIELD=VALUE", help=FIELDS_HELP)
    changing = add(commands, "set", users.change, "change fields of a user")
    changing.add_argument("user", help=USER_HELP)
    changing.add_argument("fields", nargs="+", metavar="FIELD=VALUE", help=FIELDS_HELP)
    for name, summary in (
        ("suspend", "suspend a user"),
        ("activate", "activate a pending or suspended user"),
        ("restore", "restore a deleted user, by its id"),
    ):
        add(commands, name, users.change_status, summary).add_argument("user", help=USER_HELP)
    auditing = add(commands, "audit", users.audit, "who changed a user, or any user, and when")
    auditing.add_argument("user", nargs="?", help=f"{USER_HELP} (default: all users)")
    auditing.add_argument("--actor", help="such as api-key:billing")
    auditing.add_argument("--type", choices=get_args(AuditType))
    for name in ("--after", "--before"):
        auditing.add_argument(name, metavar="TIME", help="RFC 3339, or a date")
    deleting = add(commands, "delete", users.delete, "delete a user, who can be restored")
    deleting.add_argument("--purge", action="store_true", help="remove the row for good; asks first")
    erasing = add(commands, "erase", users.erase, "erase all personal data of a user for good; asks first")
    for command in (deleting, erasing):
        command.add_argument("user", help=USER_HELP)
        command.add_argument("--yes", action="store_true", help="do not ask")
    person = add(commands, "export-person", users.export_person, "all that is stored of one person, as JSON")
    person.add_argument("user", help=USER_HELP)
    person.add_argument("file", nargs="?", help="a new file that only you can read (default: standard output)")
    add_streams(commands)
    profile = add(commands, "profile", None, "services and their keys: add NAME URL, list, remove NAME")
    profile.add_argument("action", choices=["add", "list", "remove"])
    profile.add_argument("name", nargs="?")
    profile.add_argument("address", nargs="?", metavar="URL")
    profile.add_argument("--file", action="store_true", help="keep the key in the file, though there is a keyring")
    completion = add(commands, "completion", None, "a script for your shell: source <(users completion bash)")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    return parser


def add_streams(commands: _SubParsersAction[ArgumentParser]) -> None:
    importing = add(commands, "import", bulk.import_users, "create users from a file of NDJSON or CSV")
    importing.add_argument("file", help="a .ndjson, .jsonl, .csv or .tsv file; - for standard input")
    importing.add_argument(
        "--format", choices=get_args(FileFormat), help="the format, if the file's name does not tell"
    )
    importing.add_argument("--map", action="append", default=[], metavar="NAME=FIELD", help="a column of another name")
    importing.add_argument("--on-conflict", choices=get_args(OnConflict), default="fail")
    importing.add_argument("--unknown-columns", choices=["fail", "ignore"], default="fail", help="of CSV")
    importing.add_argument("--keep-ids", action="store_true", help="keep the id of each record, as exported")
    importing.add_argument("--key", help="the import's Idempotency-Key (default: from the file's content)")
    importing.add_argument("--again", action="store_true", help="apply the file anew, though it was imported before")
    importing.add_argument("--dry-run", action="store_true", help="report what would happen, and change nothing")
    exporting = add(commands, "export", bulk.export_users, "write users to a file of NDJSON or CSV")
    exporting.add_argument(
        "file", nargs="?", default="-", help="the file, .csv for CSV; - for standard output (default)"
    )
    exporting.add_argument("--format", choices=get_args(FileFormat), help="(default: by the file's name, else ndjson)")
    exporting.add_argument("--fields", metavar="NAMES", help="names of fields, separated by commas")
    add_filters(exporting)
    changes = add(commands, "changes", bulk.follow_changes, "the feed of changes, the oldest first")
    changes.add_argument("--follow", action="store_true", help="wait for the next ones, until Ctrl-C")
    changes.add_argument("--type", choices=get_args(ChangeType))
    place = changes.add_mutually_exclusive_group()
    place.add_argument("--after", metavar="CURSOR", help="begin after this cursor")
    place.add_argument("--cursor-file", metavar="FILE", help="begin where the last command with this file ended")


def add_filters(command: ArgumentParser) -> None:
    command.add_argument("--email", help="the address or an alias")
    command.add_argument("--domain", help="the domain of the address or of an alias")
    for name in ("--username", "--phone", "--external-id"):
        command.add_argument(name)
    command.add_argument("--status", choices=get_args(Status))
    command.add_argument("--metadata", action="append", default=[], metavar="KEY=VALUE")
    for name in ("--created-after", "--created-before", "--updated-after"):
        command.add_argument(name, metavar="TIME", help="RFC 3339, or a date")
    command.add_argument("--deleted", "--include-deleted", action="store_true", help="deleted users too")


def add(commands: _SubParsersAction[ArgumentParser], name: str, function: Run | None, summary: str) -> ArgumentParser:
    """A command with the options that all have."""
    command: ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=function)
    command.add_argument(
        "--output", choices=["table", "json"], help="(default: table on a terminal, JSON lines in a pipe)"
    )
    if function is not None:
        command.add_argument("--profile", metavar="NAME", help="the service (default: USERS_PROFILE)")
        command.add_argument("--url", help="the service (default: USER_SERVICE_URL, or http://localhost:PORT)")
        command.add_argument("--reason", metavar="TEXT", help="for the audit, such as 'ticket 4711'")
        command.add_argument(
            "--wait", type=float, default=10, metavar="SECONDS", help="try again for so long (default: 10)"
        )
    return command


if __name__ == "__main__":
    sys.exit(main())
