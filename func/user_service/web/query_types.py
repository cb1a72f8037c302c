"""Types of query parameters. They accept OpenAPI's integer, boolean and date-time, and no other spelling."""

import re
from datetime import datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from user_service.users.validation import QUERY_PHONE, check_phone
from user_service.values.timestamps import parse_rfc3339

INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
FLAGS: Final = {"true": True, "false": False}


def parse_integer(text: str | int) -> int:
    if isinstance(text, str) and not INTEGER.fullmatch(text):
        raise PydanticCustomError("int_parsing", "must be a whole number, as 50")
    return int(text)


def parse_flag(text: str | bool) -> bool:
    if isinstance(text, bool):
        return text
    if text not in FLAGS:
        raise PydanticCustomError("bool_parsing", "must be true or false")
    return FLAGS[text]


def parse_timestamp(text: str) -> datetime:
    """In UTC."""
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise PydanticCustomError(
            "datetime_parsing", "must be a time in RFC 3339 format, such as 2026-01-31T12:00:00Z"
        ) from None


def parse_phone(text: str) -> str:
    """In E.164 format. A plus that was not escaped arrives as a space."""
    return check_phone(f"+{text}" if text.startswith(" ") and "+" not in text else text)


# Use it with bounds: Annotated[int, Field(ge=1), strict_integer].
strict_integer: Final = BeforeValidator(parse_integer)
Flag = Annotated[bool, BeforeValidator(parse_flag)]
QueryPhone = Annotated[
    str,
    Field(max_length=64, examples=["+442071838750"], json_schema_extra={"pattern": QUERY_PHONE}),
    AfterValidator(parse_phone),
]
Timestamp = Annotated[datetime, BeforeValidator(parse_timestamp)]
