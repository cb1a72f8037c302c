"""A user in memory, and its two JSON documents: the one of the API, and the one that the database encrypts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from user_service.encryption.blind_index import Scalar

JSON_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC

DELETED: Final = "deleted"


@dataclass(slots=True)
class User:
    """One user, decrypted. After the id and the times come the fields of a body in its order; see rules.new_user.

    `prior_status` is the status that a restore brings back, and `scim` what an identity provider sent that has no field
    (see scim/mapping.py). Neither is part of the API.
    """

    id: UUID
    created_at: datetime
    updated_at: datetime
    external_id: str | None
    email: str
    email_verified: bool = False
    aliases: list[str] = field(default_factory=list)
    username: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    display_name: str | None = None
    phone: str | None = None
    locale: str | None = None
    timezone: str | None = None
    status: str = "active"
    preferences: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Scalar] = field(default_factory=dict)
    scim: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    last_login_at: datetime | None = None
    deleted_at: datetime | None = None
    prior_status: str | None = None

    @property
    def is_deleted(self) -> bool:
        return self.deleted_at is not None

    @property
    def is_erased(self) -> bool:
        """Whether this is a tombstone, which has no e-mail address."""
        return not self.email

    def document(self) -> dict[str, Any]:
        """The API's representation, with times that `JSON_OPTIONS` writes."""
        return {
            "id": str(self.id),
            "external_id": self.external_id,
            "email": self.email or None,
            "email_verified": self.email_verified,
            "aliases": self.aliases,
            "username": self.username,
            "given_name": self.given_name,
            "family_name": self.family_name,
            "display_name": self.display_name,
            "phone": self.phone,
            "locale": self.locale,
            "timezone": self.timezone,
            "status": self.status,
            "preferences": self.preferences,
            "metadata": self.metadata,
            "version": self.version,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "last_login_at": self.last_login_at,
            "deleted_at": self.deleted_at,
        }

    def to_json(self, fields: Sequence[str] | None = None) -> bytes:
        """The API's representation, UTF-8: these fields, in this order, or all."""
        document = self.document()
        if fields is not None:
            document = {name: document[name] for name in fields}
        return orjson.dumps(document, option=JSON_OPTIONS)

    def personal_json(self) -> bytes:
        """The personal data, UTF-8."""
        personal: dict[str, Any] = {"email": self.email}
        if self.given_name is not None:
            personal["given_name"] = self.given_name
        if self.family_name is not None:
            personal["family_name"] = self.family_name
        if self.display_name is not None:
            personal["display_name"] = self.display_name
        if self.phone is not None:
            personal["phone"] = self.phone
        personal["preferences"] = self.preferences
        if self.username is not None:
            personal["username"] = self.username
        if self.aliases:
            personal["aliases"] = self.aliases
        if self.scim:
            personal["scim"] = self.scim
        return orjson.dumps(personal)
