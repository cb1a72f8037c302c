"""Fields of users as arguments: `given_name=Ada`, `metadata.plan=pro`, `email_verified=true`, `preferences:={}`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, get_type_hints

from user_service_client.command.failures import CommandFailed
from user_service_client.models import UserPatch

FIELDS = tuple(get_type_hints(UserPatch))
OBJECTS = ("metadata", "preferences")
BOOLEANS = {"true": True, "false": False}


def parse_fields(arguments: Iterable[str]) -> dict[str, Any]:
    """Values are texts; an empty one clears the field, and `:=` takes JSON. Raises CommandFailed."""
    fields: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if not separator:
            raise CommandFailed(f"{shown(argument)}: expected field=value")
        value = parse_json(name, text) if is_json else parse_text(name, text)
        head, dot, key = name.partition(".")
        if head not in FIELDS or (dot and (head not in OBJECTS or not key)):
            raise CommandFailed(f"{shown(name)}: no field of a user; fields: {', '.join(FIELDS)}")
        if dot:
            fields.setdefault(head, {})[key] = value
        else:
            fields[head] = value
    return fields


def parse_text(name: str, text: str) -> Any:
    if name in OBJECTS:
        return parse_json(name, text) if text else {}
    if name == "aliases":
        return text.replace(",", " ").split()
    if name == "email_verified":
        if text not in BOOLEANS:
            raise CommandFailed("email_verified: expected true or false")
        return BOOLEANS[text]
    return text or None


def parse_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CommandFailed(f"{shown(name)}: its value is not JSON") from None


def read_document(text: str, place: str) -> dict[str, Any]:
    """A user as a JSON object. Raises CommandFailed."""
    document = parse_json(place, text)
    if not isinstance(document, dict):
        raise CommandFailed(f"{place}: expected a JSON object")
    return document


def parse_metadata(arguments: Iterable[str]) -> dict[str, str]:
    """Filters `key=value`, as the service reads them: text as it is, other types as JSON."""
    pairs: dict[str, str] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or not key:
            raise CommandFailed(f"--metadata: {shown(argument)}: expected key=value")
        pairs[key] = value
    return pairs


def parse_time(text: str) -> datetime:
    """RFC 3339, or a date; without a zone it is in this machine's. Raises CommandFailed."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise CommandFailed(f"{shown(text)}: expected a time such as 2026-01-31 or 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.astimezone()


def shown(text: str) -> str:
    """What was typed, on one line and not too long."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:60])
