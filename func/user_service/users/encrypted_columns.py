"""All encrypted columns of the database. A test fails when one is missing here."""

from typing import Final

from user_service.encryption.reencryption import EncryptedColumn
from user_service.idempotency.stored_responses import SHELVES, ResponseTable
from user_service.users.model import PERSONAL_PURPOSE


def response_column(table: ResponseTable) -> EncryptedColumn:
    return EncryptedColumn(table.table, table.column, table.key, table.purpose, lambda key: table.name_of(*key))


PERSONAL: Final = EncryptedColumn(
    "users", "personal", {"id": "uuid"}, PERSONAL_PURPOSE, lambda key: bytes(key[0].bytes)
)
ENCRYPTED_COLUMNS: Final = (PERSONAL, *map(response_column, SHELVES))
