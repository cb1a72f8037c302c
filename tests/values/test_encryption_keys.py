"""Encryption keys as text"""

import base64

import pytest

from user_service.errors import ConfigurationError
from user_service.values.encryption_keys import parse_encryption_keys

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_keys_are_read_in_their_order_in_both_alphabets() -> None:
    key = bytes(range(224, 256))

    ring = parse_encryption_keys(f"b:{encoded(key)}, a:{base64.urlsafe_b64encode(key).decode()}")

    assert list(ring.items()) == [("b", key), ("a", key)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "key 1 is not"),
        (encoded(OLD), "key 1 is not"),
        (f":{encoded(OLD)}", "key 1 is not"),
        (f"a b:{encoded(OLD)}", "key 1 is not"),
        (f"{'x' * 33}:{encoded(OLD)}", "key 1 is not"),
        (f"a:{encoded(OLD)},", "key 2 is not"),
        ("a:***", "not base64"),
        (f"a:{encoded(OLD[:31])}", "has 31 bytes, 32 are needed"),
        (f"a:{encoded(b'x' * 32)}", "placeholder"),
        (f"a:{encoded(OLD)},a:{encoded(NEW)}", "the id a is there twice"),
    ],
)
def test_wrong_keys_are_refused_without_showing_them(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refusal:
        parse_encryption_keys(text)

    assert encoded(OLD)[:20] not in str(refusal.value)
