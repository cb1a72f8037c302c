"""`user-service keys api`"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from support.process import RunCommand
from user_service.values.api_keys import hash_key, parse_api_keys


def test_a_new_key_is_printed_with_the_setting_that_accepts_it(run: RunCommand) -> None:
    status, said = run("keys", "api", "billing", "--scopes", "users:read, users:write", "--expires", "90d")
    first, setting, *_ = said.splitlines()
    (billing,) = parse_api_keys(setting)
    status_of_second, said = run("keys", "api", "support", "--scopes", "audit:read", API_KEYS=setting)
    second, setting, *_ = said.splitlines()
    both = parse_api_keys(setting)

    assert (status, status_of_second) == (0, 0)
    assert (billing.name, billing.digest) == ("billing", hash_key(first.encode()))
    assert billing.scopes == {"users:read", "users:write"}
    assert billing.expires is not None
    assert timedelta(days=89) < billing.expires - datetime.now(UTC) <= timedelta(days=90)
    assert both == (billing, both[1])
    assert (both[1].name, both[1].digest, both[1].expires) == ("support", hash_key(second.encode()), None)
    assert first != second
    assert min(len(first), len(second)) > 40


def test_the_list_has_no_key(run: RunCommand, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = run("keys", "api", "billing", "--scopes", "users:read,scim", "--file", str(file))[1].splitlines()[0]
    run("keys", "api", "reports", "--scopes", "users:read", "--expires", "2999-01-31", "--file", str(file))

    listed = [run("keys", "api", "--file", str(file)), run("keys", "api", API_KEYS_FILE=str(file))]

    assert listed[0] == listed[1]
    assert file.stat().st_mode & 0o777 == 0o600
    assert key not in file.read_text()
    assert [line.split() for line in listed[0][1].splitlines()] == [
        ["NAME", "FINGERPRINT", "EXPIRES", "SCOPES"],
        ["billing", hash_key(key.encode()).hex()[:8], "never", "scim,users:read"],
        ["reports", json.loads(file.read_text())[1]["sha256"][:8], "2999-01-31T00:00:00Z", "users:read"],
    ]


def test_a_key_that_has_expired_is_listed_as_such(run: RunCommand) -> None:
    entry = {"name": "trial", "sha256": "0f" * 32, "scopes": ["scim"], "expires": "2020-01-01T00:00:00Z"}

    assert "2020-01-01T00:00:00Z (expired)" in run("keys", "api", API_KEYS=json.dumps([entry]))[1]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["billing"], "--scopes is missing"),
        (["billing", "--scopes", ""], "scopes must be some of"),
        (["billing", "--scopes", "users:fly"], "scopes must be some of"),
        (["Billing", "--scopes", "scim"], "a name has up to"),
        (["billing", "--scopes", "scim", "--expires", "soon"], "--expires must be"),
        (["billing", "--scopes", "scim", "--expires", "2020-01-01"], "must be in the future"),
        (["billing", "--scopes", "scim", "--expires", "0d"], "must be in the future"),
        (["billing", "--scopes", "scim", "--expires", "99999d"], None),
        (["--scopes", "scim"], "name the key"),
    ],
)
def test_a_wrong_request_makes_no_key(run: RunCommand, arguments: list[str], fault: str | None) -> None:
    status, said = run("keys", "api", *arguments)

    assert (status == 2) == (fault is not None)
    assert (fault or "") in said
    assert ("usk_" in said) == (fault is None)


def test_a_setting_that_is_wrong_is_named(run: RunCommand, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("[{}]")

    for status, said in (run("keys", "api", API_KEYS="nonsense"), run("keys", "api", API_KEYS_FILE=str(file))):
        assert status == 2
        assert "API_KEYS: " in said
    assert run("keys", "api", "--file", str(file)) == (
        2,
        f"{file}: entry 1: expected an object with name, sha256, scopes and, if it ends, expires\n",
    )
    assert run("keys", "api", "a", "--scopes", "scim", "--file", str(tmp_path / "none" / "keys"))[0] == 1
