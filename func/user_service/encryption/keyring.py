"""The service's keys: where they come from, and what is derived from them."""

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from user_service.encryption.cipher import KEY_BYTES, Cipher, FindKeys, find_none, parse_keys
from user_service.errors import ConfigurationError
from user_service.settings import Settings

DERIVATION_SALT: Final = b"user-service"
BLIND_INDEX_PURPOSE: Final = b"blind-index"


def derive(key: bytes, purpose: bytes) -> bytes:
    """A 32-byte key for one purpose: HKDF-SHA-256 (RFC 5869), one block."""
    extracted = hmac.digest(DERIVATION_SALT, key, "sha256")
    return hmac.digest(extracted, purpose + b"\x01", "sha256")


@dataclass(slots=True, repr=False)
class Keyring:
    """The cipher of personal data and its ring, and the key of the blind indexes, which others are derived from.

    One object for as long as a process lives: what has to follow a change of keys holds this.
    """

    ring: Mapping[str, bytes]
    cipher: Cipher
    blind_index: bytes
    # Whether the blind index key is derived from a key of the ring, and not set.
    is_derived: bool

    @property
    def fingerprints(self) -> dict[str, str]:
        """What is known of the encryption keys, by id, and says nothing about them."""
        return {key_id: fingerprint_of(key) for key_id, key in self.ring.items()}

    @property
    def blind_index_keys(self) -> dict[str, bytes]:
        """The keys that may be the blind index's, by fingerprint; the one that a new database gets comes first."""
        others = [derive(key, BLIND_INDEX_PURPOSE) for key in self.ring.values()] if self.is_derived else []
        return {fingerprint_of(key): key for key in [self.blind_index, *others]}

    @property
    def derived_from(self) -> str | None:
        """The id of the encryption key that the blind index key is derived from."""
        keys = self.ring.items() if self.is_derived else ()
        return next((name for name, key in keys if derive(key, BLIND_INDEX_PURPOSE) == self.blind_index), None)

    @property
    def cursor(self) -> bytes:
        return derive(self.blind_index, b"cursor")

    @property
    def principal(self) -> bytes:
        """The key of principals' names."""
        return derive(self.blind_index, b"principal")

    @property
    def idempotency(self) -> bytes:
        """The key of the hashes by which idempotent requests are known."""
        return derive(self.blind_index, b"idempotency")

    def settle(self, *, blind_index: bytes, active_id: str) -> None:
        """Goes on with the keys that the database is written with."""
        self.blind_index = blind_index
        if active_id != self.cipher.active_id:
            self.cipher.use(self.ring, active_id=active_id)

    def follow(self, other: "Keyring") -> None:
        """Takes over a ring that was compared with the same database."""
        self.ring, self.blind_index, self.is_derived = other.ring, other.blind_index, other.is_derived
        self.cipher.use(other.ring, active_id=other.cipher.active_id)


def fingerprint_of(key: bytes) -> str:
    return hashlib.sha256(derive(key, b"fingerprint")).hexdigest()[:32]


def load_keys(settings: Settings, *, find_keys: FindKeys = find_none) -> Keyring:
    """The keys of the settings; in development, ones made on the first start and kept in `DATA_DIR`.

    `find_keys` is the cipher's.
    """
    text = settings.encryption_key or kept_secret(settings, "encryption-key", new_encryption_key)
    ring = parse_keys(text)
    oldest = list(ring.values())[-1]
    named = parse_blind_index_key(settings.blind_index_key)
    return Keyring(
        ring,
        Cipher(ring, find_keys),
        named or derive(oldest, BLIND_INDEX_PURPOSE),
        is_derived=named is None,
    )


def load_api_keys(settings: Settings) -> tuple[str, ...]:
    """The internal API keys; in development, one made on the first start and kept in `DATA_DIR`."""
    if settings.internal_api_key or settings.is_production:
        return settings.internal_api_key
    return (kept_secret(settings, "internal-api-key", lambda: os.urandom(24).hex()),)


def new_encryption_key() -> str:
    """A fresh `id:base64` key; the id is random, so that two keys never share one."""
    return f"k{os.urandom(3).hex()}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def parse_blind_index_key(text: str | None) -> bytes | None:
    if text is None:
        return None
    keys = parse_keys(text if ":" in text else f"blind-index:{text}", setting="BLIND_INDEX_KEY")
    return next(iter(keys.values()))


def secret_path(settings: Settings, name: str) -> Path:
    return settings.data_dir.expanduser() / name


def kept_secret(settings: Settings, name: str, make: Callable[[], str]) -> str:
    """A secret in a file of `DATA_DIR`, made on first use; two starts at once agree on one."""
    path = secret_path(settings, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_once(path, make())
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigurationError(
            f"{name}: {path} can't be kept ({error.strerror}); set DATA_DIR to a folder that can be written"
        ) from None


def write_once(path: Path, secret: str) -> None:
    """Writes a file of mode 0600 that appears whole, unless it is there already."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secret.encode("ascii") + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
