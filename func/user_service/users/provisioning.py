"""The bodies of an identity provider: users, with what has no field, which is sealed with the personal data."""

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from user_service.users.schemas import UserCreate, UserUpdate
from user_service.users.validation import MAX_OBJECT_BYTES, MAX_OBJECT_DEPTH, nesting_depth, too_deep


def check_provisioned(value: dict[str, Any]) -> dict[str, Any]:
    if not value:
        return value
    if nesting_depth(value) > MAX_OBJECT_DEPTH:
        raise too_deep()
    if len(orjson.dumps(value)) > MAX_OBJECT_BYTES:
        raise PydanticCustomError("too_large", "must not exceed {limit} bytes as JSON", {"limit": MAX_OBJECT_BYTES})
    return value


Provisioned = Annotated[dict[str, Any], AfterValidator(check_provisioned)]


class ProvisionedUser(UserCreate):
    """A new user, with what has no field of its own."""

    scim: Provisioned = Field(default_factory=dict)


class ProvisionedUpdate(UserUpdate):
    """A merge patch that can replace what has no field of its own."""

    scim: Provisioned = Field(default_factory=dict)
