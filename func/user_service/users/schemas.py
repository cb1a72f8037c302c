"""What goes in and out: a schema per direction. A message about a wrong value never repeats the value."""

import re
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from user_service.values.emails import normalise_email
from user_service.values.ids import parse_id
from user_service.values.timezones import zones

MAX_OBJECT_BYTES = 16 * 1024
MAX_OBJECT_DEPTH = 32
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
WITHOUT_NUL = r"^[^\x00]*$"
WRITTEN_NUL: Final = b"\\u0000"
# Metadata values that come back from jsonb as they went in; a text must hold no NUL besides.
PLAIN_TYPES: Final = frozenset({str, int, bool, type(None)})
# RFC 5646, 2.1
LANGUAGE_TAG = re.compile(
    r"^(([a-zA-Z]{2,3}(-[a-zA-Z]{3}){0,3}|[a-zA-Z]{4,8})(-[a-zA-Z]{4})?(-([a-zA-Z]{2}|[0-9]{3}))?"
    r"(-([a-zA-Z0-9]{5,8}|[0-9][a-zA-Z0-9]{3}))*(-[0-9a-wyzA-WYZ](-[a-zA-Z0-9]{2,8})+)*(-x(-[a-zA-Z0-9]{1,8})+)?"
    r"|x(-[a-zA-Z0-9]{1,8})+)$"
)


def check_email(text: str) -> str:
    try:
        return normalise_email(text)
    except ValueError as error:
        raise PydanticCustomError("email", "{reason}", {"reason": str(error)}) from None


def check_id(value: Any) -> UUID:
    user_id = parse_id(value) if isinstance(value, str) else None
    if user_id is None:
        raise PydanticCustomError("uuid", "must be a UUID, as 0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f")
    return user_id


def check_text(text: str) -> str:
    if not text.isprintable() and CONTROL.search(text):
        raise PydanticCustomError("control_character", "must not hold control characters")
    return text


@lru_cache(maxsize=1024)
def check_locale(text: str) -> str:
    if not LANGUAGE_TAG.fullmatch(text):
        raise PydanticCustomError("locale", "must be a BCP 47 language tag, as en-GB")
    return text


def check_timezone(text: str) -> str:
    if text not in zones():
        raise PydanticCustomError("timezone", "must be an IANA time zone, as Europe/London")
    return text


def depth_of(value: Any) -> int:
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
    document = written(value)
    nested = b"[" in document or document.find(b"{", 1) > 0
    if nested and depth_of(value) > MAX_OBJECT_DEPTH:
        raise too_deep()
    return value


def take_preferences(value: Any, check_type: ValidatorFunctionWrapHandler) -> Any:
    """All bodies come out of a JSON parser, so that what is inside needs no look: pydantic would copy it."""
    return check_preferences(value if type(value) is dict else check_type(value))


def check_scalar(value: Any) -> Any:
    """A metadata value, numbers as they come back from jsonb: without exponent where 64 bits hold them, no -0.0."""
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
    written(value)
    return value


def take_metadata(value: Any, check_values: ValidatorFunctionWrapHandler) -> Any:
    """Most metadata are plain, which one look tells; else pydantic looks at each and says which is not."""
    if (
        type(value) is dict
        and PLAIN_TYPES.issuperset(map(type, value.values()))
        and "" not in value
        and WRITTEN_NUL not in written(value)
    ):
        return value
    return check_values(value)


def written(value: dict[str, Any]) -> bytes:
    """An object as JSON, once it is known to be small enough; empty for an empty one."""
    if not value:
        return b""
    try:
        document = orjson.dumps(value)
    except orjson.JSONEncodeError:
        # What a parser has read can't be written for one reason only.
        raise too_deep() from None
    if len(document) > MAX_OBJECT_BYTES:
        raise PydanticCustomError("too_large", "must not exceed {limit} bytes as JSON", {"limit": MAX_OBJECT_BYTES})
    return document


def too_deep() -> PydanticCustomError:
    return PydanticCustomError("too_deep", "must not be nested deeper than {limit}", {"limit": MAX_OBJECT_DEPTH})


Email = Annotated[
    str,
    Field(max_length=1016, json_schema_extra={"format": "email", "maxLength": 254}, examples=["ada@example.org"]),
    AfterValidator(check_email),
]
Name = Annotated[str, Field(max_length=200, json_schema_extra={"pattern": PRINTABLE}), AfterValidator(check_text)]
ExternalId = Annotated[
    str, Field(min_length=1, max_length=255, json_schema_extra={"pattern": PRINTABLE}), AfterValidator(check_text)
]
Phone = Annotated[str, Field(pattern=r"^\+[1-9][0-9]{1,14}$", examples=["+442071838750"])]
Locale = Annotated[
    str,
    Field(max_length=64, examples=["en-GB"], json_schema_extra={"pattern": LANGUAGE_TAG.pattern}),
    AfterValidator(check_locale),
]
Timezone = Annotated[
    str,
    Field(max_length=64, examples=["Europe/London"], json_schema_extra={"format": "timezone"}),
    AfterValidator(check_timezone),
]
LivingStatus = Literal["pending", "active", "suspended"]
Preferences = Annotated[dict[str, Any], WrapValidator(take_preferences)]
Scalar = str | int | float | bool | None
SCALAR_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": WITHOUT_NUL}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}]
}
# A union would report a wrong value once for each of its members.
MetadataValue = Annotated[Any, AfterValidator(check_scalar), WithJsonSchema(SCALAR_SCHEMA)]
Metadata = Annotated[
    dict[str, MetadataValue],
    Field(json_schema_extra={"propertyNames": {"minLength": 1, "pattern": WITHOUT_NUL}}),
    AfterValidator(check_metadata),
    WrapValidator(take_metadata),
]


class Body(BaseModel):
    """JSON as it is: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class UserCreate(Body):
    """A new user."""

    external_id: ExternalId | None = None
    email: Email
    email_verified: bool = False
    given_name: Name | None = None
    family_name: Name | None = None
    display_name: Name | None = None
    phone: Phone | None = None
    locale: Locale | None = None
    timezone: Timezone | None = None
    status: LivingStatus = "active"
    preferences: Preferences = Field(default_factory=dict)
    metadata: Metadata = Field(default_factory=dict)


def leave_out_defaults(schema: dict[str, Any]) -> None:
    """What stands for an absent field inside is no default of a patch."""
    for field in schema["properties"].values():
        field.pop("default", None)


class UserUpdate(Body):
    """A JSON merge patch (RFC 7396): an absent field stays, null clears a field that may be empty."""

    model_config = ConfigDict(json_schema_extra=leave_out_defaults)

    external_id: ExternalId | None = None
    email: Email = Field(default="")
    email_verified: bool = False
    given_name: Name | None = None
    family_name: Name | None = None
    display_name: Name | None = None
    phone: Phone | None = None
    locale: Locale | None = None
    timezone: Timezone | None = None
    status: LivingStatus = "active"
    preferences: Preferences | None = None
    metadata: Metadata | None = None


class OwnUpdate(Body):
    """What people may change of themselves, as a JSON merge patch: not what others decide by, such as `external_id`,
    `status` and `metadata`.
    """

    email: Email = Field(default="")
    given_name: Name | None = None
    family_name: Name | None = None
    display_name: Name | None = None
    phone: Phone | None = None
    locale: Locale | None = None
    timezone: Timezone | None = None
    preferences: Preferences | None = None


class UserUpsert(UserUpdate):
    """A user of a known external_id: made if there is none, else changed in the fields that are given."""

    email: Email


class UserRead(BaseModel):
    """A user as it is answered."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    id: UUID
    external_id: str | None
    email: str | None = Field(description="Null for a user who was erased, and for nobody else")
    email_verified: bool
    given_name: str | None
    family_name: str | None
    display_name: str | None
    phone: str | None
    locale: str | None
    timezone: str | None
    status: Literal["pending", "active", "suspended", "deleted"]
    preferences: dict[str, JsonValue]
    metadata: dict[str, Scalar]
    version: int = Field(ge=1)
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None
    deleted_at: datetime | None


class UserPage(BaseModel):
    """A page of users; `next_cursor` is null on the last one."""

    items: list[UserRead]
    next_cursor: str | None
