"""Encryption of personal data at rest: AES-256-GCM (NIST SP 800-38D) under a ring of keys.

Token: `0x01 | length of key id | key id | 12-byte nonce | ciphertext and 16-byte tag`. The associated data are the
purpose (a column, or the cache) and the user's id, so that a token copied to another user or column does not open.
Nonces are random: replace the active key before it has sealed 2**32 tokens.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from user_service.errors import KeyNotLoaded, ServiceError
from user_service.values.encryption_keys import KEY_ID

FORMAT: Final = 1
NONCE_BYTES: Final = 12
# The part of a token that contains its key id: format, length, and at most 32 characters.
TOKEN_HEAD_BYTES: Final = 34


class DecryptionError(Exception):
    """A token that no key opens: altered, copied to another row, or sealed under a missing key."""


class KeyMissing(DecryptionError, KeyNotLoaded):
    """A token under a key that is not in the ring: 503, because another replica may have the key."""

    def __init__(self, key_id: str) -> None:
        ServiceError.__init__(self, f"The key {key_id!r} is not in ENCRYPTION_KEY of this replica.")


class Ring(NamedTuple):
    """Keys as AES-GCM uses them: all of them open, the active one seals, and its tokens start with `prefix`."""

    openers: Mapping[bytes, AESGCM]
    active_id: str
    sealer: AESGCM
    prefix: bytes


def make_ring(keys: Mapping[str, bytes], active_id: str) -> Ring:
    openers = {key_id.encode(): AESGCM(key) for key_id, key in keys.items()}
    prefix = bytes((FORMAT, len(active_id))) + active_id.encode()
    return Ring(openers, active_id, openers[active_id.encode()], prefix)


def parse_key_id(token: bytes) -> str:
    """The key id in a token, or in the first `TOKEN_HEAD_BYTES` of one. Raises DecryptionError."""
    if len(token) < 2 or token[0] != FORMAT:
        raise DecryptionError("not a token of this service")
    key_id = token[2 : 2 + token[1]].decode("ascii", "replace")
    if not KEY_ID.fullmatch(key_id):
        raise DecryptionError("not a token of this service")
    return key_id


FindKeys = Callable[[str], Mapping[str, bytes]]


def find_none(key_id: str) -> Mapping[str, bytes]:
    return {}


class Cipher:
    """Seals with the active key of the ring, by default the first, and opens with any of them.

    `find_keys` is called with a key id that is not in the ring, and returns further keys. It must be quick, and may be
    called often. Its keys open tokens and never seal.
    """

    def __init__(self, keys: Mapping[str, bytes], find_keys: FindKeys = find_none) -> None:
        self.find_keys = find_keys
        self.set_keys(keys)

    def set_keys(self, keys: Mapping[str, bytes], *, active_id: str | None = None) -> None:
        """Replaces the ring."""
        self.ring = make_ring(keys, active_id or next(iter(keys)))

    @property
    def active_id(self) -> str:
        return self.ring.active_id

    def seal(self, plaintext: bytes, *, purpose: bytes, user_id: bytes) -> bytes:
        """A token of `plaintext`, bound to a purpose and a 16-byte user id."""
        return self.seal_all((plaintext,), purpose=purpose, user_ids=(user_id,))[0]

    def seal_all(self, plaintexts: Sequence[bytes], *, purpose: bytes, user_ids: Iterable[bytes]) -> list[bytes]:
        """A token of each plaintext, bound to a purpose and to the 16-byte user id at the same position."""
        prefix, encrypt, bound = self.ring.prefix, self.ring.sealer.encrypt, purpose + b"\0"
        # One system call for all nonces: each call costs as much as an encryption.
        randomness = os.urandom(NONCE_BYTES * len(plaintexts))
        nonces = [randomness[start : start + NONCE_BYTES] for start in range(0, len(randomness), NONCE_BYTES)]
        return [
            prefix + nonce + encrypt(nonce, plaintext, bound + user_id)
            for nonce, plaintext, user_id in zip(nonces, plaintexts, user_ids, strict=True)
        ]

    def open(self, token: bytes, *, purpose: bytes, user_id: bytes) -> bytes:
        """The plaintext of a token. Raises DecryptionError, which names the key id and no data."""
        ring = self.ring
        if token.startswith(ring.prefix):
            opener, start = ring.sealer, len(ring.prefix)
        else:
            opener, start = self.find_opener(token)
        body = start + NONCE_BYTES
        try:
            return opener.decrypt(token[start:body], token[body:], purpose + b"\0" + user_id)
        except (InvalidTag, ValueError):
            raise DecryptionError(f"a token for {purpose.decode()} does not open under its key") from None

    def find_opener(self, token: bytes) -> tuple[AESGCM, int]:
        """The key that opens a token, and the length of the token's head. Raises DecryptionError."""
        key_id = parse_key_id(token)
        start = 2 + token[1]
        opener = self.ring.openers.get(token[2:start])
        if opener is None:
            new = {name.encode(): AESGCM(key) for name, key in self.find_keys(key_id).items()}
            self.ring = self.ring._replace(openers={**new, **self.ring.openers})
            opener = self.ring.openers.get(token[2:start])
        if opener is None:
            raise KeyMissing(key_id)
        return opener, start

    def is_current(self, token: bytes) -> bool:
        """Whether a token is sealed under the active key."""
        return token.startswith(self.ring.prefix)
