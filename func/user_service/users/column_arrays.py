"""The columns of table `users` as parameters of a statement: an array for each column, with a value for each user."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import orjson

from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.cipher import Cipher
from user_service.users.encrypted_columns import seal_personal
from user_service.users.model import User

# Every column that is written, with the type of its array; `metadata` is sent as text.
COLUMN_TYPES: Final = {
    "id": "uuid",
    "external_id": "text",
    "phone_index": "bigint",
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
# Columns that are not attributes of User.
COMPUTED: Final = frozenset({"phone_index", "personal", "metadata"})
# The values of a new user that need no parameter; see rules.new_user.
INITIAL_VALUES: Final = {
    "prior_status": "NULL",
    "version": "1",
    "deleted_at": "NULL",
}
INSERTED: Final = tuple(name for name in COLUMN_TYPES if name not in INITIAL_VALUES)


def column_arrays(
    users: Sequence[User], names: Sequence[str], cipher: Cipher, index: BlindIndex
) -> dict[str, Sequence[Any]]:
    """The arrays of these columns, which include the computed ones."""
    return {
        **attribute_arrays(users, names),
        "phone_index": [index.phone(user.phone) for user in users],
        "personal": seal_personal(users, cipher),
        "metadata": [orjson.dumps(user.metadata).decode() for user in users],
    }


def attribute_arrays(users: Sequence[User], names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """The arrays of those columns that are attributes."""
    plain = [name for name in names if name not in COMPUTED]
    return dict(zip(plain, zip(*map(attrgetter(*plain), users), strict=True), strict=True))
