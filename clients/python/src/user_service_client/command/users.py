"""The commands on single users."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from user_service_client.client import Client
from user_service_client.command.failures import FAILED, REFUSED, SUCCESS, CommandFailed
from user_service_client.command.fields import parse_fields, parse_metadata, parse_time, read_document
from user_service_client.command.output import Output, write_time
from user_service_client.command.profiles import open_private
from user_service_client.models import Filters, NewUser, Sort, User, UserPatch

COLUMNS = ("id", "email", "status", "given_name", "family_name", "username", "external_id", "created_at")
SORTS: dict[str, Sort] = {
    "oldest": "created_at",
    "newest": "-created_at",
    "oldest-change": "updated_at",
    "newest-change": "-updated_at",
}
AUDIT_COLUMNS = ("changed_at", "version", "type", "status", "actor", "changed")


def read_filters(options: Namespace) -> Filters:
    """The filters that `find` and `export` have in common."""
    given = {
        "email": options.email,
        "email_domain": options.domain,
        "username": options.username,
        "phone": options.phone,
        "external_id": options.external_id,
        "status": options.status,
        "created_after": parse_time(options.created_after) if options.created_after else None,
        "created_before": parse_time(options.created_before) if options.created_before else None,
        "updated_after": parse_time(options.updated_after) if options.updated_after else None,
        "metadata": parse_metadata(options.metadata) or None,
        "include_deleted": options.deleted or None,
    }
    return cast("Filters", {name: value for name, value in given.items() if value is not None})


def find(client: Client, options: Namespace, output: Output) -> int:
    """Words of a name, or a part with `@` for an address; exit status 1 if there is no such user."""
    if options.limit < 0:
        raise CommandFailed("--limit: expected a number from 0")
    filters, words = read_filters(options), " ".join(options.words)
    if "@" in words:
        filters["email"] = words
    elif words:
        filters["q"] = words
    count = output.records(take_users(client, filters, options), COLUMNS)
    if options.limit and count == options.limit:
        print(f"The first {count:,}; --limit 0 shows all.", file=sys.stderr)
    return SUCCESS if count else FAILED


def take_users(client: Client, filters: Filters, options: Namespace) -> Iterator[User]:
    if set(filters) == {"email"}:
        # By the body of the request: the address is then in no log of requests.
        found = client.users.find_by_email(filters["email"])
        return iter([found] if found is not None else [])
    users = client.users.list(sort=SORTS[options.sort], page_size=min(options.limit or 200, 200), **filters)
    return islice(users, options.limit) if options.limit else users


def resolve(client: Client, name: str, *, deleted: bool = False) -> User:
    """The user with this id, address, external id or username. Raises UserNotFound, CommandFailed."""
    with suppress(ValueError):
        return client.users.get(str(UUID(name)), include_deleted=deleted, fresh=True)
    if "@" in name:
        found = client.users.find_by_email(name)
    else:
        found = client.users.find_by_external_id(name) or client.users.find_by_username(name)
    if found is None:
        hint = " A deleted user is found by its id alone." if deleted else ""
        raise CommandFailed(f"No user has this address, external id or username.{hint}", REFUSED)
    return found


def resolve_id(client: Client, name: str) -> str:
    """An id as it is, of a user in any state; else as `resolve`."""
    try:
        return str(UUID(name))
    except ValueError:
        return resolve(client, name).id


def show(client: Client, options: Namespace, output: Output) -> int:
    output.record(resolve(client, options.user, deleted=options.deleted))
    return SUCCESS


def create(client: Client, options: Namespace, output: Output) -> int:
    fields = read_fields(options)
    if not fields.get("email"):
        raise CommandFailed("email=... is required")
    output.record(client.users.create(**cast("NewUser", fields)))
    return SUCCESS


def change(client: Client, options: Namespace, output: Output) -> int:
    fields = read_fields(options)
    user = resolve(client, options.user)
    output.record(client.users.update(user, **cast("UserPatch", fields)))
    return SUCCESS


def read_fields(options: Namespace) -> dict[str, Any]:
    return read_document(sys.stdin.read(), "-") if options.fields == ["-"] else parse_fields(options.fields)


def change_status(client: Client, options: Namespace, output: Output) -> int:
    """The command `suspend`, `activate` or `restore`."""
    users = client.users
    methods = {"suspend": users.suspend, "activate": users.activate, "restore": users.restore}
    output.record(methods[options.command](resolve_id(client, options.user)))
    return SUCCESS


def delete(client: Client, options: Namespace, output: Output) -> int:
    user_id = resolve_id(client, options.user)
    if options.purge:
        confirm(user_id, "purged: its row is removed, and can't be restored", options)
    client.users.delete(user_id, purge=options.purge)
    print(f"{'Purged' if options.purge else 'Deleted'}: {user_id}", file=sys.stderr)
    return SUCCESS


def erase(client: Client, options: Namespace, output: Output) -> int:
    user_id = resolve_id(client, options.user)
    confirm(user_id, "erased: all personal data is removed for good", options)
    client.users.erase(user_id)
    print(f"Erased: {user_id}", file=sys.stderr)
    return SUCCESS


def confirm(user_id: str, what: str, options: Namespace) -> None:
    """Asks on the terminal, unless `--yes` was given. Raises CommandFailed if the answer is not the word."""
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"The user {user_id} would be {what}. Add --yes where no person can be asked.")
    print(f"The user {user_id} will be {what}.", file=sys.stderr)
    sys.stderr.write("Type yes to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        raise CommandFailed("Nothing was changed.", FAILED)


def audit(client: Client, options: Namespace, output: Output) -> int:
    """The trail of one user, the oldest entry first; without a user the audit of all, the newest first."""
    is_search = options.user is None or any((options.actor, options.type, options.after, options.before))
    if not is_search:
        output.records(client.users.audit(resolve_id(client, options.user)), AUDIT_COLUMNS)
        return SUCCESS
    records = client.users.search_audit(
        actor=options.actor,
        audit_type=options.type,
        user=resolve_id(client, options.user) if options.user is not None else None,
        after=parse_time(options.after) if options.after else None,
        before=parse_time(options.before) if options.before else None,
    )
    output.records(records, (*AUDIT_COLUMNS, "user_id", "reason"))
    return SUCCESS


def export_person(client: Client, options: Namespace, output: Output) -> int:
    """JSON of all that is stored of a person, to standard output or to a file that only this account can read."""
    document = client.users.export_person(resolve_id(client, options.user))
    text = json.dumps(document, indent=2, ensure_ascii=False, default=write_time) + "\n"
    if options.file is None:
        sys.stdout.write(text)
        return SUCCESS
    try:
        with open_private(Path(options.file)) as file:
            file.write(text.encode())
    except FileExistsError:
        raise CommandFailed(f"{options.file}: there is such a file; remove it or name another one") from None
    except OSError as error:
        raise CommandFailed(f"{options.file}: can't be written ({error.strerror})") from None
    return SUCCESS
