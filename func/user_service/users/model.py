"""A user in memory, and its two written forms: the API's JSON and the encrypted blob of the database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from user_service.encryption.blind_index import Scalar
from user_service.encryption.cipher import Cipher

PERSONAL_PURPOSE: Final = b"users.personal"
JSON_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC

LIVING: Final = ("pending", "active", "suspended")
DELETED: Final = "deleted"


@dataclass(slots=True, kw_only=True)
class User:
    """One user, decrypted. `prior_status` is what a restore gives back; it is not part of the API."""

    id: UUID
    external_id: str | None = None
    email: str
    email_verified: bool = False
    given_name: str | None = None
    family_name: str | None = None
    display_name: str | None = None
    phone: str | None = None
    locale: str | None = None
    timezone: str | None = None
    status: str = "active"
    preferences: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Scalar] = field(default_factory=dict)
    version: int = 1
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None = None
    deleted_at: datetime | None = None
    prior_status: str | None = None

    @property
    def is_deleted(self) -> bool:
        return self.deleted_at is not None

    @property
    def is_erased(self) -> bool:
        """A tombstone: what every other user must have is empty."""
        return not self.email

    @property
    def names(self) -> tuple[str | None, str | None, str | None]:
        return self.given_name, self.family_name, self.display_name

    def to_json(self) -> bytes:
        """The API's representation, UTF-8."""
        return orjson.dumps(
            {
                "id": str(self.id),
                "external_id": self.external_id,
                "email": self.email or None,
                "email_verified": self.email_verified,
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
            },
            option=JSON_OPTIONS,
        )

    def personal_json(self) -> bytes:
        """Everything personal that there is, UTF-8."""
        personal = {
            "email": self.email,
            "given_name": self.given_name,
            "family_name": self.family_name,
            "display_name": self.display_name,
            "phone": self.phone,
            "preferences": self.preferences,
        }
        if None in personal.values():
            personal = {name: value for name, value in personal.items() if value is not None}
        return orjson.dumps(personal)


def seal_personal(users: Sequence[User], cipher: Cipher) -> list[bytes]:
    """The encrypted blobs of everything personal, one for each user."""
    documents = [user.personal_json() for user in users]
    return cipher.seal_all(documents, purpose=PERSONAL_PURPOSE, user_ids=[user.id.bytes for user in users])


# The columns of table `users` that a User is made of, in the order that `user_of_row` takes them.
USER_COLUMNS: Final = (
    "id",
    "external_id",
    "personal",
    "email_verified",
    "locale",
    "timezone",
    "status",
    "metadata",
    "version",
    "created_at",
    "updated_at",
    "last_login_at",
    "deleted_at",
    "prior_status",
)
# The same as SQL, with `metadata` as the text that PostgreSQL keeps.
SELECTED: Final = ", ".join("metadata::text" if name == "metadata" else name for name in USER_COLUMNS)


def user_of_row(row: Any, cipher: Cipher) -> User:
    """A user of a row of `USER_COLUMNS`, by position, with `metadata` as JSON text. Raises DecryptionError."""
    (
        user_id,
        external_id,
        sealed,
        email_verified,
        locale,
        timezone,
        status,
        metadata,
        version,
        created_at,
        updated_at,
        last_login_at,
        deleted_at,
        prior_status,
    ) = row
    personal = orjson.loads(cipher.open(sealed, purpose=PERSONAL_PURPOSE, user_id=user_id.bytes))
    return User(
        id=user_id,
        external_id=external_id,
        email=personal["email"],
        email_verified=email_verified,
        given_name=personal.get("given_name"),
        family_name=personal.get("family_name"),
        display_name=personal.get("display_name"),
        phone=personal.get("phone"),
        locale=locale,
        timezone=timezone,
        status=status,
        preferences=personal.get("preferences") or {},
        metadata=orjson.loads(metadata),
        version=version,
        created_at=created_at,
        updated_at=updated_at,
        last_login_at=last_login_at,
        deleted_at=deleted_at,
        prior_status=prior_status,
    )
