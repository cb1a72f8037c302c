"""AES-256-GCM tokens: bound to a purpose and a user, under a ring of keys"""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from user_service.encryption.cipher import Cipher, DecryptionError

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
USER, OTHER = b"u" * 16, b"v" * 16
PURPOSE = b"users.personal"
old_ring, ring = Cipher({"old": OLD}), Cipher({"new": NEW, "old": OLD})


def seal(plaintext: bytes, cipher: Cipher = ring) -> bytes:
    return cipher.seal(plaintext, purpose=PURPOSE, user_id=USER)


def unseal(token: bytes, *, cipher: Cipher = ring, purpose: bytes = PURPOSE, user_id: bytes = USER) -> bytes:
    return cipher.open(token, purpose=purpose, user_id=user_id)


@given(st.binary(max_size=2000))
def test_what_is_sealed_opens(plaintext: bytes) -> None:
    assert unseal(seal(plaintext)) == plaintext


@given(st.binary(min_size=8, max_size=200))
def test_a_token_shows_nothing_and_is_new_each_time(plaintext: bytes) -> None:
    one, other = seal(plaintext), seal(plaintext)

    assert plaintext not in one
    assert one != other


@given(st.binary(max_size=50), st.data())
def test_an_altered_token_does_not_open(plaintext: bytes, data: st.DataObject) -> None:
    token = bytearray(seal(plaintext))
    place, change = data.draw(st.integers(0, len(token) - 1)), data.draw(st.integers(1, 255))

    token[place] ^= change

    with pytest.raises(DecryptionError):
        unseal(bytes(token))


@given(st.binary(max_size=200))
def test_other_bytes_do_not_open(token: bytes) -> None:
    for text in (token, b"\x01\x03new" + token, b"\x01\xff" + token):
        with pytest.raises(DecryptionError):
            unseal(text)


@given(st.binary(max_size=50), st.integers(0, 60))
def test_a_cut_token_does_not_open(plaintext: bytes, cut: int) -> None:
    token = seal(plaintext)
    assume(cut < len(token))

    with pytest.raises(DecryptionError):
        unseal(token[:cut])


def test_a_token_is_bound_to_its_user_and_purpose() -> None:
    token = seal(b"ada")

    for moved in ({"user_id": OTHER}, {"purpose": b"cache"}):
        with pytest.raises(DecryptionError, match=r"^a token for .* does not open under its key$"):
            unseal(token, **moved)  # type: ignore[arg-type]


def test_the_first_key_seals_and_every_key_opens() -> None:
    before, after = seal(b"ada", old_ring), seal(b"ada")

    assert unseal(before) == unseal(after) == b"ada"
    assert not ring.is_current(before)
    assert ring.is_current(after)


def test_a_key_that_is_gone_is_named() -> None:
    with pytest.raises(DecryptionError, match="'new' is not in ENCRYPTION_KEY"):
        unseal(seal(b"ada"), cipher=old_ring)
