"""`user-service keys`"""

from support.process import RunCommand
from user_service.values.encryption_keys import parse_encryption_keys


def test_keys_new_makes_another_key_each_time(run: RunCommand) -> None:
    (first, one), (second, other) = run("keys", "new"), run("keys", "new")

    keys = parse_encryption_keys(f"{one.strip()},{other.strip()}")
    assert (first, second) == (0, 0)
    assert [len(key) for key in keys.values()] == [32, 32]
