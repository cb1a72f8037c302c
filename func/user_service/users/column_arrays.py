"""The columns of `users` as statements take them: an array of each, one value a user."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.users.model import User, seal_personal

# Every column that is written, with the type of its array; `metadata` travels as text.
WRITTEN: Final = {
    "id": "uuid",
    "external_id": "text",
    "email_index": "bytea",
    "personal": "bytea",
    "email_verified": "boolean",
    "locale": "text",
    "timezone": "text",
    "status": "text",
    "prior_status": "text",
    "metadata": "text",
    "version": "integer",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "last_login_at": "timestamptz",
    "deleted_at": "timestamptz",
}
AS_JSON: Final = {"metadata": "v.metadata::jsonb"}
# Columns that are no attributes.
MADE: Final = frozenset({"email_index", "personal", "metadata"})
# What a new user does not have yet, or has like every other; see rules.new_user.
BORN_WITH: Final = {
    "prior_status": "NULL",
    "version": "1",
    "updated_at": "v.created_at",
    "last_login_at": "NULL",
    "deleted_at": "NULL",
}
NEW: Final = tuple(name for name in WRITTEN if name not in BORN_WITH)


def columns_of(
    users: Sequence[User], names: Sequence[str], cipher: Cipher, index: BlindIndex
) -> dict[str, Sequence[Any]]:
    """The arrays of these columns, of which the made ones are always some."""
    return {
        **plain_columns(users, names),
        "email_index": [index.email(user.email) for user in users],
        "personal": seal_personal(users, cipher),
        "metadata": [orjson.dumps(user.metadata).decode() for user in users],
    }


def plain_columns(users: Sequence[User], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Those of them that are attributes."""
    plain = [name for name in names if name not in MADE]
    return dict(zip(plain, zip(*map(attrgetter(*plain), users), strict=True), strict=True))
