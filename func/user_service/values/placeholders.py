"""Secrets that production refuses: placeholders, API keys that can be guessed, and encryption keys that are none.

scripts/placeholders.py reads this module too, so it imports the standard library only.
"""

from typing import Final

from user_service.errors import ConfigurationError
from user_service.values.encryption_keys import parse_encryption_keys

PLACEHOLDERS: Final = frozenset(
    {
        "changeme",
        "change-me",
        "replaceme",
        "replace-me",
        "placeholder",
        "secret",
        "password",
        "example",
        "development-only",
    }
)
# SHA-256 of the API keys that are published with the manifests.
PUBLISHED_KEYS: Final = frozenset({"7df285257971b63689a73b25e8756e46e4c7428894cacff4bb9415bc0430f4a7"})
MIN_SECRET_LENGTH: Final = 16
MIN_CHARACTERS: Final = 6


def find_secret_fault(name: str, value: str) -> str | None:
    """Why production refuses the value of the setting, with the remedy and without the value; None if it does not.

    A value that is missing is no fault here.
    """
    if name == "ENCRYPTION_KEY" and value:
        return find_encryption_key_fault(value)
    if name in {"POSTGRES_USER_PASSWORD", "REDIS_PASSWORD"} and is_placeholder(value):
        return f"{name}: the password is a placeholder; set another one here and in the server"
    if name == "INTERNAL_API_KEY" and any(is_weak(key.strip()) for key in value.split(",") if key.strip()):
        return (
            f"INTERNAL_API_KEY: a key is a placeholder or shorter than {MIN_SECRET_LENGTH} characters; "
            "make one with `openssl rand -hex 32`"
        )
    if name == "API_KEYS" and any(digest in value for digest in PUBLISHED_KEYS):
        return "API_KEYS: a key is published with the manifests; make another one with `user-service keys api`"
    return None


def find_encryption_key_fault(text: str) -> str | None:
    if is_placeholder(text.partition(":")[0]):
        return "ENCRYPTION_KEY: this one is published with the manifests; make one with `user-service keys new`"
    try:
        parse_encryption_keys(text)
    except ConfigurationError as error:
        return str(error)
    return None


def is_weak(secret: str) -> bool:
    """Whether a secret is too short, too uniform or a placeholder."""
    return len(secret) < MIN_SECRET_LENGTH or is_placeholder(secret) or len(set(secret)) < MIN_CHARACTERS


def is_placeholder(secret: str) -> bool:
    lowered = secret.lower()
    return any(word in lowered for word in PLACEHOLDERS)
