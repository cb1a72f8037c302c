"""The service's keys: how they are loaded, and the keys that are derived from them."""

import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from user_service.encryption.blind_index import PrefixedHmac
from user_service.encryption.cipher import Cipher, FindKeys, find_none
from user_service.errors import ConfigurationError
from user_service.settings import Settings
from user_service.values.encryption_keys import KEY_BYTES, parse_encryption_keys

DERIVATION_SALT: Final = b"user-service"
BLIND_INDEX_PURPOSE: Final = b"blind-index"


@lru_cache(maxsize=64)
def derive_key(key: bytes, purpose: bytes) -> bytes:
    """A 32-byte key for one purpose: HKDF-SHA-256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=DERIVATION_SALT, info=purpose).derive(key)


@lru_cache(maxsize=16)
def derive_hmac(key: bytes, purpose: bytes) -> PrefixedHmac:
    return PrefixedHmac(derive_key(key, purpose), b"")


@dataclass(slots=True, repr=False)
class Keyring:
    """The cipher of personal data with its ring of keys, and the blind index key, from which other keys are derived.

    A process has one, and changes it in place: code that must use changed keys keeps a reference to it.
    """

    ring: Mapping[str, bytes]
    cipher: Cipher
    blind_index: bytes
    # Whether the blind index key is derived from a key of the ring, and not set.
    is_derived: bool
    # Whether the database has the terms of the beginnings of all users' words.
    has_prefixes: bool = False

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hashes that identify the encryption keys without revealing them, by key id."""
        return {key_id: fingerprint(key) for key_id, key in self.ring.items()}

    @property
    def blind_index_keys(self) -> dict[str, bytes]:
        """The possible blind index keys by fingerprint; a new database gets the first."""
        others = [derive_key(key, BLIND_INDEX_PURPOSE) for key in self.ring.values()] if self.is_derived else []
        return {fingerprint(key): key for key in [self.blind_index, *others]}

    @property
    def derived_from(self) -> str | None:
        """The id of the encryption key that the blind index key is derived from; None if it is not derived."""
        keys = self.ring.items() if self.is_derived else ()
        return next((key_id for key_id, key in keys if derive_key(key, BLIND_INDEX_PURPOSE) == self.blind_index), None)

    @property
    def cursor(self) -> bytes:
        return derive_key(self.blind_index, b"cursor")

    @property
    def principal(self) -> bytes:
        """The key of the HMACs that are principals' names."""
        return derive_key(self.blind_index, b"principal")

    @property
    def idempotency(self) -> PrefixedHmac:
        """The HMACs that identify idempotent requests."""
        return derive_hmac(self.blind_index, b"idempotency")

    def activate(self, *, blind_index: bytes, active_id: str) -> None:
        """Uses the keys that the database is written with."""
        self.blind_index = blind_index
        if active_id != self.cipher.active_id:
            self.cipher.set_keys(self.ring, active_id=active_id)

    def replace(self, other: "Keyring") -> None:
        """Uses the keys of another keyring, which was compared with the same database."""
        self.ring, self.blind_index, self.is_derived = other.ring, other.blind_index, other.is_derived
        self.cipher.set_keys(other.ring, active_id=other.cipher.active_id)


def fingerprint(key: bytes) -> str:
    return hashlib.sha256(derive_key(key, b"fingerprint")).hexdigest()[:32]


def load_keys(settings: Settings, *, find_keys: FindKeys = find_none) -> Keyring:
    """The keys of the settings; in development, keys that the first start generates and stores in `DATA_DIR`.

    `find_keys` is the cipher's.
    """
    ring = parse_encryption_keys(
        settings.encryption_key or stored_secret(settings, "encryption-key", new_encryption_key)
    )
    cipher = Cipher(ring, find_keys)
    if settings.blind_index_key is not None:
        return Keyring(ring, cipher, parse_blind_index_key(settings.blind_index_key), is_derived=False)
    oldest = list(ring.values())[-1]
    return Keyring(ring, cipher, derive_key(oldest, BLIND_INDEX_PURPOSE), is_derived=True)


def load_api_keys(settings: Settings) -> tuple[str, ...]:
    """The internal API keys; in development, one that the first start generates and stores in `DATA_DIR`."""
    if settings.internal_api_key or settings.is_production:
        return settings.internal_api_key
    return (stored_secret(settings, "internal-api-key", lambda: os.urandom(24).hex()),)


def new_encryption_key() -> str:
    """A new key as `id:base64`. The id is random, so that no two keys share one."""
    return f"k{os.urandom(3).hex()}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def parse_blind_index_key(text: str) -> bytes:
    keys = parse_encryption_keys(text if ":" in text else f"blind-index:{text}", setting="BLIND_INDEX_KEY")
    return next(iter(keys.values()))


def secret_path(settings: Settings, name: str) -> Path:
    return settings.data_dir.expanduser() / name


def stored_secret(settings: Settings, name: str, generate: Callable[[], str]) -> str:
    """A secret in a file of `DATA_DIR`, generated on first use; two concurrent starts use the same one."""
    path = secret_path(settings, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_once(path, generate())
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigurationError(
            f"{name}: {path} can't be written or read ({error.strerror}); set DATA_DIR to a writable folder"
        ) from None


def write_once(path: Path, secret: str) -> None:
    """Creates a file of mode 0600 in one step, unless it exists."""
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
