"""The bodies of requests and responses: a schema for each direction."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.json_schema import SkipJsonSchema

from user_service.encryption.blind_index import Scalar
from user_service.users.validation import (
    LANGUAGE_TAG,
    MAX_ALIASES,
    PRINTABLE,
    VISIBLE,
    WITHOUT_NUL,
    WRITTEN_PHONE,
    accept_metadata,
    accept_preferences,
    check_aliases,
    check_creation,
    check_domain,
    check_email,
    check_id,
    check_locale,
    check_metadata,
    check_phone,
    check_scalar,
    check_text,
    check_time,
    check_time_ordered,
    check_timezone,
    check_username,
)

EMAIL_SCHEMA: dict[str, Any] = {"format": "email", "maxLength": 254}
Email = Annotated[
    str,
    Field(max_length=1016, json_schema_extra=EMAIL_SCHEMA, examples=["ada@example.org"]),
    AfterValidator(check_email),
]
EmailDomain = Annotated[
    str,
    Field(max_length=1016, json_schema_extra={"format": "email-domain", "maxLength": 253}, examples=["example.org"]),
    AfterValidator(check_domain),
]
Alias = Annotated[
    str,
    Field(max_length=1016, json_schema_extra=EMAIL_SCHEMA, examples=["ada@example.com"]),
    AfterValidator(check_email),
]
Aliases = Annotated[
    list[Alias],
    Field(
        max_length=MAX_ALIASES,
        description="Further addresses, which find the user as `email` does",
        examples=[["ada@example.com"]],
        json_schema_extra={"uniqueItems": True},
    ),
    AfterValidator(check_aliases),
]
Username = Annotated[
    str,
    Field(min_length=1, max_length=255, examples=["ada.lovelace"], json_schema_extra={"pattern": VISIBLE}),
    AfterValidator(check_username),
]
Name = Annotated[str, Field(max_length=200, json_schema_extra={"pattern": PRINTABLE}), AfterValidator(check_text)]
ExternalId = Annotated[
    str, Field(min_length=1, max_length=255, json_schema_extra={"pattern": PRINTABLE}), AfterValidator(check_text)
]
Phone = Annotated[
    str,
    Field(max_length=64, examples=["+442071838750"], json_schema_extra={"pattern": WRITTEN_PHONE}),
    AfterValidator(check_phone),
]
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
# Of records that an export wrote. `created_at` is validated after `id`, which holds the time too.
ImportedId = Annotated[UUID, BeforeValidator(check_id), AfterValidator(check_time_ordered)]
ImportedTime = Annotated[datetime, BeforeValidator(check_time)]
ImportedCreation = Annotated[ImportedTime, AfterValidator(check_creation)]
LivingStatus = Literal["pending", "active", "suspended"]
Preferences = Annotated[dict[str, Any], WrapValidator(accept_preferences)]
SCALAR_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": WITHOUT_NUL}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}]
}
# A union would report an invalid value once for each of its members.
MetadataValue = Annotated[Any, AfterValidator(check_scalar), WithJsonSchema(SCALAR_SCHEMA)]
Metadata = Annotated[
    dict[str, MetadataValue],
    Field(json_schema_extra={"propertyNames": {"minLength": 1, "pattern": WITHOUT_NUL}}),
    AfterValidator(check_metadata),
    WrapValidator(accept_metadata),
]


def with_example(**fields: Any) -> ConfigDict:
    """The configuration of a model that shows one example in its schema."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Body(BaseModel):
    """Strict JSON: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class UserCreate(Body):
    """A new user."""

    model_config = with_example(
        external_id="crm-7", email="ada@example.org", given_name="Ada", locale="en-GB", metadata={"plan": "pro"}
    )

    external_id: ExternalId | None = None
    email: Email
    email_verified: bool = False
    aliases: Aliases = Field(default_factory=list)
    username: Username | None = None
    given_name: Name | None = None
    family_name: Name | None = None
    display_name: Name | None = None
    phone: Phone | None = None
    locale: Locale | None = None
    timezone: Timezone | None = None
    status: LivingStatus = "active"
    preferences: Preferences = Field(default_factory=dict)
    metadata: Metadata = Field(default_factory=dict)


class ImportedUser(UserCreate):
    """A record of an import: a new user, or what an export wrote of one."""

    id: ImportedId | None = None
    created_at: ImportedCreation | None = None
    last_login_at: ImportedTime | None = None


def leave_out_defaults(schema: dict[str, Any]) -> None:
    """Removes the defaults: an absent field of a patch stays as it is."""
    for field in schema["properties"].values():
        field.pop("default", None)
    required = {"email": "ada@example.org"} if "email" in schema.get("required", ()) else {}
    schema["examples"] = [{**required, "family_name": "King"}]


class UserUpdate(Body):
    """A JSON merge patch (RFC 7396): an absent field stays, null clears a field that may be empty."""

    model_config = ConfigDict(json_schema_extra=leave_out_defaults)

    external_id: ExternalId | None = None
    email: Email = Field(default="")
    email_verified: bool = False
    aliases: Aliases | None = None
    username: Username | None = None
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
    """A merge patch by the user itself, without what others rely on: `external_id`, `aliases`, `status`, `metadata`."""

    model_config = ConfigDict(json_schema_extra=leave_out_defaults)

    email: Email = Field(default="")
    username: Username | None = None
    given_name: Name | None = None
    family_name: Name | None = None
    display_name: Name | None = None
    phone: Phone | None = None
    locale: Locale | None = None
    timezone: Timezone | None = None
    preferences: Preferences | None = None


class UserUpsert(UserUpdate):
    """A user of a given external_id: created if there is none, else changed in the given fields."""

    email: Email


EXAMPLE: dict[str, Any] = {
    "id": "0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f",
    "external_id": "crm-7",
    "email": "ada@example.org",
    "email_verified": False,
    "aliases": [],
    "username": "ada",
    "given_name": "Ada",
    "family_name": None,
    "display_name": None,
    "phone": None,
    "locale": "en-GB",
    "timezone": None,
    "status": "active",
    "preferences": {},
    "metadata": {"plan": "pro"},
    "version": 1,
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:00Z",
    "last_login_at": None,
    "deleted_at": None,
}


class UserRead(BaseModel):
    """A user in a response."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    id: UUID
    external_id: str | None
    email: str | None = Field(description="Null only for an erased user")
    email_verified: bool
    aliases: list[str]
    username: str | None
    given_name: str | None
    family_name: str | None
    display_name: str | None
    phone: str | None
    locale: str | None
    timezone: str | None
    status: Literal["pending", "active", "suspended", "deleted"]
    preferences: dict[str, Any]
    metadata: dict[str, Scalar]
    version: int = Field(ge=1)
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None
    deleted_at: datetime | None


class UserPage(BaseModel):
    """A page of users, which have the requested fields; `next_cursor` is null on the last page."""

    items: list[UserRead]
    next_cursor: str | None
    total: Annotated[int, Field(ge=0)] | SkipJsonSchema[None] = Field(
        default=None,
        description="The number of users on all pages, with `count=true`; absent if it takes over a second to count",
    )
