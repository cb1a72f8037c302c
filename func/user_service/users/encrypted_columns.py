"""Where personal data is encrypted: the encrypted columns of the database, and users to and from rows of `users`."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from user_service.encryption.cipher import Cipher
from user_service.encryption.encrypted_column import EncryptedColumn
from user_service.idempotency.stored_responses import RESPONSE_TABLES
from user_service.users.model import User

PERSONAL: Final = EncryptedColumn(
    "users", "personal", {"id": "uuid"}, b"users.personal", lambda key: bytes(key[0].bytes)
)
# All encrypted columns of the database; a test fails when one is missing.
ENCRYPTED_COLUMNS: Final[Sequence[EncryptedColumn]] = (PERSONAL, *RESPONSE_TABLES)

# The columns of table `users` that a User is made of, in the order of `decode_row`.
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
ID_PLACE: Final = USER_COLUMNS.index("id")
VERSION_PLACE: Final = USER_COLUMNS.index("version")
# The same in SQL, with `metadata` as the text that PostgreSQL stores.
SELECT_LIST: Final = ", ".join("metadata::text" if name == "metadata" else name for name in USER_COLUMNS)


def seal_personal(users: Sequence[User], cipher: Cipher) -> list[bytes]:
    """The encrypted personal data of each user, as column `personal` holds it."""
    documents = [user.personal_json() for user in users]
    return cipher.seal_all(documents, purpose=PERSONAL.purpose, user_ids=[user.id.bytes for user in users])


def decode_row(row: Any, cipher: Cipher) -> User:
    """The user in a row of `USER_COLUMNS`, by position, with `metadata` as JSON text. Raises DecryptionError."""
    (
        user_id,
        external_id,
        token,
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
    personal = orjson.loads(cipher.open(token, purpose=PERSONAL.purpose, user_id=user_id.bytes))
    return User(
        id=user_id,
        external_id=external_id,
        email=personal["email"],
        email_verified=email_verified,
        aliases=personal.get("aliases") or [],
        username=personal.get("username"),
        given_name=personal.get("given_name"),
        family_name=personal.get("family_name"),
        display_name=personal.get("display_name"),
        phone=personal.get("phone"),
        locale=locale,
        timezone=timezone,
        status=status,
        preferences=personal.get("preferences") or {},
        metadata=orjson.loads(metadata),
        scim=personal.get("scim") or {},
        version=version,
        created_at=created_at,
        updated_at=updated_at,
        last_login_at=last_login_at,
        deleted_at=deleted_at,
        prior_status=prior_status,
    )
