"""Validators of a user's fields. A message about an invalid value never quotes the value."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import PydanticCustomError

from user_service.values.case_folding import email_key
from user_service.values.emails import normalise_domain, normalise_email
from user_service.values.ids import EPOCH, MILLISECOND, id_milliseconds, id_time, parse_id
from user_service.values.timestamps import parse_rfc3339
from user_service.values.timezones import zones

MAX_OBJECT_BYTES = 16 * 1024
MAX_OBJECT_DEPTH = 32
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PHONE = re.compile(r"^\+[1-9][0-9]{1,14}$", re.ASCII)
# What people write between the digits, and what word processors make of spaces and hyphens.
PHONE_SEPARATORS: Final = " .()\u00a0\u202f\u2011-"
PHONE_DIGITS: Final = f"[{PHONE_SEPARATORS}]*[1-9]([{PHONE_SEPARATORS}]*[0-9]){{1,14}}[{PHONE_SEPARATORS}]*$"
WRITTEN_PHONE: Final = f"^[{PHONE_SEPARATORS}]*\\+{PHONE_DIGITS}"
# In a query, a plus that is not escaped arrives as a space.
QUERY_PHONE: Final = f"^([{PHONE_SEPARATORS}]*\\+| ){PHONE_DIGITS}"
WITHOUT_SEPARATORS: Final = str.maketrans("", "", PHONE_SEPARATORS)
MAX_ALIASES: Final = 10
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
VISIBLE = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
WITHOUT_NUL = r"^[^\x00]*$"
# A record of another machine may be from a clock that is ahead of this one.
MAX_CLOCK_SKEW: Final = timedelta(minutes=5)
ESCAPED_NUL: Final = b"\\u0000"
# Metadata values that jsonb returns as they were written, unless they are text with a NUL.
UNCHANGED_TYPES: Final = frozenset({str, int, bool, type(None)})
NESTED_TYPES: Final = frozenset({dict, list})
# RFC 5646, 2.1: a language tag, a private one, and the irregular ones, which are older than the syntax.
IRREGULAR_TAGS: Final = (
    *("en-GB-oed", "sgn-BE-FR", "sgn-BE-NL", "sgn-CH-DE"),
    *("i-ami", "i-bnn", "i-default", "i-enochian", "i-hak", "i-klingon", "i-lux", "i-mingo", "i-navajo", "i-pwn"),
    *("i-tao", "i-tay", "i-tsu"),
)
REGULAR_TAG: Final = (
    "([a-zA-Z]{2,3}(-[a-zA-Z]{3}){0,3}|[a-zA-Z]{4,8})(-[a-zA-Z]{4})?(-([a-zA-Z]{2}|[0-9]{3}))?"
    "(-([a-zA-Z0-9]{5,8}|[0-9][a-zA-Z0-9]{3}))*(-[0-9a-wyzA-WYZ](-[a-zA-Z0-9]{2,8})+)*(-[xX](-[a-zA-Z0-9]{1,8})+)?"
    "|[xX](-[a-zA-Z0-9]{1,8})+"
)


def ignore_case(tag: str) -> str:
    """A regular expression of a tag in any case, for OpenAPI, whose expressions have no flags."""
    return "".join("-" if char == "-" else f"[{char.lower()}{char.upper()}]" for char in tag)


ANY_TAG: Final = f"{REGULAR_TAG}|({'|'.join(map(ignore_case, IRREGULAR_TAGS))})"
# Operating systems write underscores between the parts.
LANGUAGE_TAG: Final = re.compile("^(" + ANY_TAG.replace("(-", "([-_]").replace("]-[", "][-_][") + ")$")


def check_email(text: str) -> str:
    try:
        return normalise_email(text)
    except ValueError as error:
        raise PydanticCustomError("email", "{reason}", {"reason": str(error)}) from None


def check_domain(text: str) -> str:
    try:
        return normalise_domain(text)
    except ValueError as error:
        raise PydanticCustomError("domain", "{reason}", {"reason": str(error)}) from None


def check_id(value: Any) -> UUID:
    user_id = parse_id(value) if isinstance(value, str) else None
    if user_id is None:
        raise PydanticCustomError("uuid", "must be a UUID, as 0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f")
    return user_id


def check_time_ordered(user_id: UUID) -> UUID:
    """The id of an imported user: a UUIDv7, which holds the time of creation. Raises PydanticCustomError."""
    if user_id.version != 7:
        raise PydanticCustomError("uuid_version", "must be a UUIDv7, whose first part is the time of creation")
    # An id can hold times that `datetime` can't.
    if id_milliseconds(user_id) > (datetime.now(UTC) + MAX_CLOCK_SKEW - EPOCH) // MILLISECOND:
        raise PydanticCustomError("creation_time", "must hold a time of creation between 1970 and now")
    return user_id


def check_time(value: Any) -> datetime:
    try:
        return parse_rfc3339(value)
    except (TypeError, ValueError):
        message = "must be a time in RFC 3339 format, such as 2026-01-31T12:00:00Z"
        raise PydanticCustomError("datetime_parsing", message) from None


def check_creation(moment: datetime, info: ValidationInfo) -> datetime:
    """`created_at` of an imported user, which becomes the time in its id."""
    if not EPOCH <= moment <= datetime.now(UTC) + MAX_CLOCK_SKEW:
        raise PydanticCustomError("creation_time", "must lie between 1970 and now")
    user_id = info.data.get("id")
    if user_id is not None and id_time(user_id) != moment:
        raise PydanticCustomError("creation_time", "must be the time that the id holds, to the millisecond")
    return moment


def check_phone(text: str) -> str:
    """A number without the spaces, dots, hyphens and parentheses that it may be written with."""
    if PHONE.fullmatch(text):
        return text
    number = text.translate(WITHOUT_SEPARATORS)
    if not PHONE.fullmatch(number):
        raise PydanticCustomError("string_pattern_mismatch", "must be a number in E.164 format, as +442071838750")
    return number


def check_username(text: str) -> str:
    trimmed = check_text(text).strip()
    if not trimmed:
        raise PydanticCustomError("string_too_short", "must have a character that is not a space, as ada.lovelace")
    return trimmed


def check_aliases(aliases: list[str], info: ValidationInfo) -> list[str]:
    """Aliases, validated after `email`."""
    if aliases:
        check_addresses(info.data.get("email") or "", aliases)
    return aliases


def check_addresses(email: str, aliases: Sequence[str]) -> None:
    """Raises PydanticCustomError when an alias is the e-mail address, or another alias, in any spelling."""
    seen = {email_key(email)}
    for place, alias in enumerate(aliases, 1):
        key = email_key(alias)
        if key in seen:
            message = 'must be addresses besides `email`, each once, as ["ada@example.com"]; number {place} repeats one'
            raise PydanticCustomError("repeated_address", message, {"place": place})
        seen.add(key)


def check_text(text: str) -> str:
    if not text.isprintable() and CONTROL.search(text):
        raise PydanticCustomError("control_character", "must not hold control characters")
    return text


@lru_cache(maxsize=1024)
def check_locale(text: str) -> str:
    """A language tag; underscores, which operating systems write, become hyphens."""
    if not LANGUAGE_TAG.fullmatch(text):
        raise PydanticCustomError("locale", "must be a BCP 47 language tag, as en-GB")
    return text.replace("_", "-")


def check_timezone(text: str) -> str:
    if text not in zones():
        raise PydanticCustomError("timezone", "must be an IANA time zone, as Europe/London")
    return text


def nesting_depth(value: Any) -> int:
    """How deep objects and lists are nested; a scalar has depth 0."""
    depth, level = 0, [value]
    while level := [
        child
        for node in level
        if isinstance(node, dict | list)
        for child in (node.values() if isinstance(node, dict) else node)
    ]:
        depth += 1
    return depth


def check_preferences(value: dict[str, Any]) -> dict[str, Any]:
    encode_object(value)
    if not NESTED_TYPES.isdisjoint(map(type, value.values())) and nesting_depth(value) > MAX_OBJECT_DEPTH:
        raise too_deep()
    return value


def accept_preferences(value: Any, check_type: ValidatorFunctionWrapHandler) -> Any:
    """Bodies come from a JSON parser, so nested values are valid JSON: pydantic would only copy them."""
    return check_preferences(value if type(value) is dict else check_type(value))


def check_scalar(value: Any) -> Any:
    """A metadata value, with numbers as jsonb returns them: no exponent for integers of 64 bits, no -0.0."""
    if isinstance(value, str) and "\0" in value:
        raise PydanticCustomError("nul_character", "must not hold NUL characters")
    if value is not None and not isinstance(value, str | int | float):
        raise PydanticCustomError("scalar", "must be a string, a number, true, false or null")
    if not isinstance(value, float):
        return value
    if not isfinite(value):
        raise PydanticCustomError("finite_number", "must be a finite number")
    if value == 0:
        return 0.0
    whole = value.is_integer() and -(2**63) <= value < 2**64
    return int(value) if whole and b"e" in orjson.dumps(value) else value


def check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    for key in value:
        if not key or "\0" in key:
            raise PydanticCustomError("metadata", "must not have empty keys or NUL characters")
    encode_object(value)
    return value


def accept_metadata(value: Any, check_values: ValidatorFunctionWrapHandler) -> Any:
    """Accepts metadata of plain values at once; otherwise pydantic checks each value and reports the invalid ones."""
    if (
        type(value) is dict
        and UNCHANGED_TYPES.issuperset(map(type, value.values()))
        and "" not in value
        and ESCAPED_NUL not in encode_object(value)
    ):
        return value
    return check_values(value)


def encode_object(value: dict[str, Any]) -> bytes:
    """An object as JSON, empty for an empty one. Raises PydanticCustomError when it is too large or nested too deep."""
    if not value:
        return b""
    try:
        document = orjson.dumps(value)
    except orjson.JSONEncodeError:
        # A parsed document has only this reason not to be encoded.
        raise too_deep() from None
    if len(document) > MAX_OBJECT_BYTES:
        raise PydanticCustomError("too_large", "must not exceed {limit} bytes as JSON", {"limit": MAX_OBJECT_BYTES})
    return document


def too_deep() -> PydanticCustomError:
    return PydanticCustomError("too_deep", "must not be nested deeper than {limit}", {"limit": MAX_OBJECT_DEPTH})
