"""Secrets of Standard Webhooks as text: base64 of 24 to 64 bytes after `whsec_`, comma-separated."""

import base64
import binascii
from typing import Final

PREFIX: Final = "whsec_"
MIN_BYTES, MAX_BYTES = 24, 64
MIN_DIFFERENT_BYTES: Final = 8


def parse_signing_secrets(text: str) -> tuple[bytes, ...]:
    """The secrets, in the order of the text. Raises ValueError, whose message contains none."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(parse_secret(part, place) for place, part in enumerate(parts, start=1))


def parse_secret(text: str, place: int) -> bytes:
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(PREFIX) or not MIN_BYTES <= len(secret) <= MAX_BYTES:
        raise ValueError(f"secret {place} is not {PREFIX} and base64 of {MIN_BYTES} to {MAX_BYTES} bytes")
    if len(set(secret)) < MIN_DIFFERENT_BYTES:
        raise ValueError(f"secret {place} is a placeholder; make one with `openssl rand -base64 32`")
    return secret
