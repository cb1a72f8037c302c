"""Encryption keys as text: `id:base64-of-32-bytes`, comma-separated.

scripts/placeholders.py reads this module too, so it imports the standard library only.
"""

import base64
import binascii
import re
from typing import Final

from user_service.errors import ConfigurationError

KEY_BYTES: Final = 32
KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")


def parse_encryption_keys(text: str, *, setting: str = "ENCRYPTION_KEY") -> dict[str, bytes]:
    """Keys by id, in the order of the text `id:base64-of-32-bytes[,…]`.

    Raises ConfigurationError, whose message does not contain the key.
    """
    keys: dict[str, bytes] = {}
    for position, part in enumerate(text.split(","), start=1):
        key_id, separator, encoded = part.strip().partition(":")
        where = f"{setting}: key {position}"
        if not separator or not KEY_ID.fullmatch(key_id):
            raise ConfigurationError(f"{where} is not `id:base64-of-32-bytes`; make one with `user-service keys new`")
        try:
            key = base64.b64decode(encoded, altchars=b"-_" if "-" in encoded or "_" in encoded else None, validate=True)
        except binascii.Error:
            raise ConfigurationError(f"{where} ({key_id}) is not base64") from None
        if len(key) != KEY_BYTES:
            raise ConfigurationError(f"{where} ({key_id}) has {len(key)} bytes, {KEY_BYTES} are needed")
        if len(set(key)) < 8:
            raise ConfigurationError(f"{where} ({key_id}) is a placeholder; make one with `user-service keys new`")
        if key_id in keys:
            raise ConfigurationError(f"{where}: the id {key_id} is there twice")
        keys[key_id] = key
    return keys
