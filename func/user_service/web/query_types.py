"""Types of query parameters. They accept OpenAPI's integer, boolean and date-time, and no other spelling."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
# RFC 3339, 5.6; `fromisoformat` checks the calendar.
RFC3339_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII | re.IGNORECASE,
)
MIN_TIMESTAMP: Final = datetime(1, 1, 1, tzinfo=UTC)
MAX_TIMESTAMP: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
FLAGS: Final = {"true": True, "false": False}


def parse_integer(text: str | int) -> int:
    if isinstance(text, str) and not INTEGER.fullmatch(text):
        raise PydanticCustomError("int_parsing", "must be a whole number")
    return int(text)


def parse_flag(text: str | bool) -> bool:
    if isinstance(text, bool):
        return text
    if text not in FLAGS:
        raise PydanticCustomError("bool_parsing", "must be true or false")
    return FLAGS[text]


def parse_timestamp(text: str) -> datetime:
    """In UTC. A time outside the years 1 to 9999 of UTC becomes the nearest one within."""
    try:
        if not RFC3339_TIMESTAMP.fullmatch(text):
            raise ValueError
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise PydanticCustomError(
            "datetime_parsing", "must be a time in RFC 3339 format, such as 2026-01-31T12:00:00Z"
        ) from None
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return MIN_TIMESTAMP if moment.year == 1 else MAX_TIMESTAMP


# Use it with bounds: Annotated[int, Field(ge=1), strict_integer].
strict_integer: Final = BeforeValidator(parse_integer)
Flag = Annotated[bool, BeforeValidator(parse_flag)]
Timestamp = Annotated[datetime, BeforeValidator(parse_timestamp)]
