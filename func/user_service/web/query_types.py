"""Types of query parameters, read strictly: OpenAPI's integer, boolean and date-time, and nothing else."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
# RFC 3339, 5.6; the calendar is checked after it.
TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII | re.IGNORECASE,
)
FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
LAST: Final = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
FLAGS: Final = {"true": True, "false": False}


def read_integer(text: str | int) -> int:
    if isinstance(text, str) and not INTEGER.fullmatch(text):
        raise PydanticCustomError("int_parsing", "must be a whole number")
    return int(text)


def read_flag(text: str | bool) -> bool:
    if isinstance(text, bool):
        return text
    if text not in FLAGS:
        raise PydanticCustomError("bool_parsing", "must be true or false")
    return FLAGS[text]


def read_time(text: str) -> datetime:
    """In UTC; a moment that only another offset can write in four digits of a year becomes the nearest one."""
    try:
        if not TIME.fullmatch(text):
            raise ValueError
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise PydanticCustomError(
            "datetime_parsing", "must be a time as in RFC 3339, as 2026-01-31T12:00:00Z"
        ) from None
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return FIRST if moment.year == 1 else LAST


# Beside the bounds, as in Annotated[int, Field(ge=1), whole_number].
whole_number: Final = BeforeValidator(read_integer)
Flag = Annotated[bool, BeforeValidator(read_flag)]
Time = Annotated[datetime, BeforeValidator(read_time)]
