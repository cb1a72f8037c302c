"""`user-service keys`"""

from support.process import RunCommand
from user_service.encryption.cipher import parse_keys


def test_keys_new_makes_another_key_each_time(run: RunCommand) -> None:
    (first, one), (second, other) = run("keys", "new"), run("keys", "new")

    keys = parse_keys(f"{one.strip()},{other.strip()}")
    assert (first, second) == (0, 0)
    assert [len(key) for key in keys.values()] == [32, 32]
