"""E-mail addresses and phone numbers of SCIM, which are lists of entries with types, and the fields of a user.

What was sent is kept entry by entry and shown again as it was, as far as the user's fields still agree: these can be
changed by other callers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic_core import PydanticCustomError

from user_service.users.model import User
from user_service.users.validation import check_phone
from user_service.values.case_folding import email_key
from user_service.values.emails import parse_email

Entry = Mapping[str, Any]

PHONE_SCHEME: Final = "tel:"


def email_entries(user: User) -> list[dict[str, Any]]:
    """The entries of `emails`: those that were sent of addresses that the user still has, and its other addresses."""
    sent = user.scim.get("emails")
    if sent is None:
        return default_emails(user.email, user.aliases)
    own = {email_key(address): address for address in (user.email, *user.aliases)}
    entries = [dict(entry) for entry in sent if not entry.get("value") or address_key(entry["value"]) in own]
    shown = {address_key(entry["value"]) for entry in entries if entry.get("value")}
    entries += [{"value": address, "type": "other"} for key, address in own.items() if key not in shown]
    main = email_key(user.email)
    chosen = choose_entry(entries, has_value)
    if chosen is None or address_key(chosen["value"]) != main:
        place = next(place for place, entry in enumerate(entries) if address_key(entry.get("value") or "") == main)
        for other in entries:
            other.pop("primary", None)
        entries[place]["primary"] = True
    return entries


def default_emails(email: str, aliases: Sequence[str]) -> list[dict[str, Any]]:
    main = {"value": email, "type": "work", "primary": True}
    return [main, *({"value": alias, "type": "other"} for alias in aliases)]


def read_emails(entries: Sequence[Entry]) -> tuple[str | None, list[str]]:
    """The e-mail address and the aliases that entries hold, as they were sent."""
    chosen = choose_entry(entries, has_value)
    if chosen is None:
        return None, []
    main = chosen["value"]
    others = {address_key(entry["value"]): entry["value"] for entry in entries if has_value(entry)}
    others.pop(address_key(main))
    return main, list(others.values())


def phone_entries(user: User) -> list[dict[str, Any]]:
    """The entries of `phoneNumbers`: those that were sent, with the user's number in place of the one that was it."""
    default = [{"value": user.phone, "type": "work"}] if user.phone is not None else []
    sent = user.scim.get("phoneNumbers")
    if sent is None:
        return default
    entries = [dict(entry) for entry in sent]
    chosen = choose_entry(entries, has_number)
    if chosen is None:
        return entries + default
    if parse_phone(chosen["value"]) == user.phone:
        return entries
    if user.phone is None:
        return [entry for entry in entries if entry is not chosen]
    chosen["value"] = user.phone
    return entries


def read_phone(entries: Sequence[Entry]) -> str | None:
    """The number in E.164 format that entries hold; None where none is one."""
    chosen = choose_entry(entries, has_number)
    return parse_phone(chosen["value"]) if chosen is not None else None


def choose_entry(entries: Sequence[Any], is_usable: Callable[[Entry], bool]) -> Any:
    """The entry that stands for all: the primary one, else the one of work, else the first; None without one."""
    usable = [entry for entry in entries if is_usable(entry)]
    primary = (entry for entry in usable if entry.get("primary") is True)
    work = (entry for entry in usable if str(entry.get("type")).lower() == "work")
    return next(primary, None) or next(work, None) or next(iter(usable), None)


def has_value(entry: Entry) -> bool:
    return bool(entry.get("value"))


def has_number(entry: Entry) -> bool:
    return parse_phone(entry.get("value") or "") is not None


def address_key(text: str) -> str:
    """The key by which addresses are compared, of a text that may be none."""
    return email_key(parse_email(text) or text)


def parse_phone(text: str) -> str | None:
    """The number in E.164 format; also of a URI (RFC 3966)."""
    try:
        return check_phone(text.removeprefix(PHONE_SCHEME))
    except PydanticCustomError:
        return None
