"""Keys of API_KEYS: their names, scopes and ends, and when they were last used."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.api import USERS, expect_problem
from support.application import running
from support.rotation import check, replica
from support.secret_files import SecretFolder
from support.settings import API_KEY, ENCRYPTION_KEY, make_settings
from user_service.errors import ConfigurationError
from user_service.security.api_keys import internal_key
from user_service.settings import Settings
from user_service.values.api_keys import SCOPES, hash_key, parse_api_keys
from user_service.values.placeholders import PUBLISHED_KEYS

READER, WRITER, ENDED = "usk_reader-2f1c77a0", "usk_writer-93ab11d2", "usk_ended-0f0f0f0f"
YESTERDAY, TOMORROW = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))


def entry(key: str, name: str, *scopes: str, expires: datetime | None = None) -> dict[str, Any]:
    end = {} if expires is None else {"expires": expires.isoformat()}
    return {"name": name, "sha256": hash_key(key.encode()).hex(), "scopes": list(scopes), **end}


KEYS = json.dumps(
    [
        entry(READER, "reports", "users:read", expires=TOMORROW),
        entry(WRITER, "sign-up", "users:read", "users:write"),
        entry(ENDED, "trial", "users:read", expires=YESTERDAY),
    ]
)


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
async def test_a_key_opens_what_its_scopes_allow_and_nothing_else(
    database_url: str, tmp_path: Path, header: str
) -> None:
    def send(key: str) -> dict[str, str]:
        return {"X-API-Key": key} if header == "X-API-Key" else {"Authorization": f"Bearer {key}"}

    async with running(make_settings(database_url, tmp_path, api_keys=parse_api_keys(KEYS))) as client:
        del client.headers["X-API-Key"]
        body = {"email": "ada@example.org"}
        created = await client.post(USERS, json=body, headers=send(WRITER))
        path = f"{USERS}/{created.json()['id']}"
        read = await client.get(path, headers=send(READER))
        refused = [
            await client.post(USERS, json=body, headers=send(READER)),
            await client.delete(path, headers=send(WRITER)),
            await client.get("/api/v1/status", headers=send(WRITER)),
        ]
        internal = await client.delete(path, headers=send(API_KEY))

    assert (created.status_code, read.status_code, internal.status_code) == (201, 200, 204)
    for response, scope in zip(refused, ("users:write", "users:delete", "cache:manage"), strict=True):
        assert scope in expect_problem(response, 403, "forbidden")["detail"]


async def test_the_actor_is_the_name(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, api_keys=parse_api_keys(KEYS))) as client:
        user = (await client.post(USERS, json={"email": "a@example.org"}, headers={"X-API-Key": WRITER})).json()
        changes = (await client.get(f"{USERS}/{user['id']}/audit")).json()["items"]
        events = (await client.get(f"{USERS}/changes")).json()["items"]

    assert [change["actor"] for change in changes] == ["api-key:sign-up"]
    assert [event["actor"] for event in events] == ["api-key:sign-up"]


async def test_a_key_ends_at_its_time(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, api_keys=parse_api_keys(KEYS))) as client:
        for path in (USERS, "/api/v1/cache"):
            response = await client.get(path, headers={"X-API-Key": ENDED})
            assert "expired" in expect_problem(response, 401, "unauthenticated")["detail"]
        (key,) = (key for key in client.resources.api_keys.all if key.name == "reports")
        before = (await client.get(USERS, headers={"X-API-Key": READER})).status_code
        key.expires_at = datetime.now(UTC).timestamp()
        after = (await client.get(USERS, headers={"X-API-Key": READER})).status_code

    assert (before, after) == (200, 401)


@pytest.mark.parametrize("presented", [hash_key(READER.encode()).hex(), READER.upper(), f"{READER}\x00", READER[:-1]])
async def test_neither_a_hash_nor_a_part_is_a_key(database_url: str, tmp_path: Path, presented: str) -> None:
    async with running(make_settings(database_url, tmp_path, api_keys=parse_api_keys(KEYS))) as client:
        response = await client.get(USERS, headers={"X-API-Key": presented})

    expect_problem(response, 401, "unauthenticated")


async def test_the_last_use_of_each_key_is_in_the_metrics_and_in_the_status(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, api_keys=parse_api_keys(KEYS))) as client:
        await client.get(USERS, headers={"X-API-Key": READER})
        await client.get(USERS, headers={"X-API-Key": ENDED})
        used = {key["name"]: key for key in (await client.get("/api/v1/status")).json()["api_keys"]}
        await client.resources.verify()
        families = text_string_to_metric_families((await client.get("/metrics")).text)
        metrics = {
            family.name: {s.labels["name"]: s.value for s in family.samples}
            for family in families
            if "api_key" in family.name
        }

    internal = internal_key(API_KEY)
    last_uses = metrics["user_api_key_last_use_timestamp_seconds"]
    assert {"reports", "sign-up", "trial", internal.name} <= used.keys()
    assert used["reports"]["scopes"] == ["users:read"]
    assert used["reports"]["fingerprint"] == hash_key(READER.encode()).hex()[:8]
    assert datetime.fromisoformat(used["reports"]["expires"]) == TOMORROW
    assert used["reports"]["last_used_at"] is not None
    assert (used["sign-up"]["last_used_at"], used["trial"]["last_used_at"]) == (None, None)
    assert used[internal.name]["scopes"] == sorted(SCOPES)
    assert last_uses.keys() == {"reports", internal.name}
    assert metrics["user_api_key_expiry_timestamp_seconds"] == {
        "reports": TOMORROW.timestamp(),
        "trial": YESTERDAY.timestamp(),
    }


async def test_named_keys_change_while_the_service_runs(database_url: str, tmp_path: Path) -> None:
    secrets = SecretFolder(tmp_path / "secrets", ENCRYPTION_KEY=ENCRYPTION_KEY, INTERNAL_API_KEY=API_KEY)
    old, both, new, bad = (
        json.dumps([entry(READER, "reports", "users:read")]),
        json.dumps([entry(READER, "reports", "users:read"), entry(WRITER, "reports", "users:read")]),
        json.dumps([entry(WRITER, "reports", "users:read")]),
        json.dumps([entry(WRITER, "reports", "users:fly")]),
    )
    seen = []
    async with replica(database_url, secrets) as client:
        for keys in ("", old, both, new, bad):
            secrets.swap(API_KEYS=keys)
            outcomes = await check(client)
            responses = [await client.get(USERS, headers={"X-API-Key": key}) for key in (READER, WRITER)]
            seen.append([response.status_code for response in responses])

    assert seen == [[401, 401], [200, 401], [200, 200], [401, 200], [401, 200]]
    assert outcomes == {"applied": 3, "refused": 1}


def test_production_starts_with_a_named_key_alone_and_not_with_a_published_one() -> None:
    environ = {"APP_ENV": "production", "SECRETS_DIR": "/nonexistent", "ENCRYPTION_KEY": ENCRYPTION_KEY}
    environ |= {"DATABASE_URL": "postgresql://db/users", "API_KEYS": KEYS}
    published = [entry(READER, "smoke-test", "users:read") | {"sha256": min(PUBLISHED_KEYS)}]
    secret = Path(__file__).parents[2] / "k8s-common/components/local-data/secret.yaml"
    service, smoke_test = (document["stringData"] for document in yaml.safe_load_all(secret.read_text()))
    (accepted,) = parse_api_keys(service["API_KEYS"])

    assert len(Settings.load(environ).api_keys) == 3
    with pytest.raises(ConfigurationError, match="a key is published"):
        Settings.load(environ | {"API_KEYS": json.dumps(published)})
    assert {accepted.digest.hex()} == {hash_key(smoke_test["API_KEY"].encode()).hex()} == PUBLISHED_KEYS


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("usk_the-key-itself", "expected a list"),
        ("{}", "expected a list"),
        ("[1]", "entry 1: expected an object"),
        (json.dumps([{"name": "a", "scopes": ["scim"]}]), "expected an object"),
        (json.dumps([entry(READER, "a", "scim") | {"key": READER}]), "expected an object"),
        (json.dumps([entry(READER, "a", "scim") | {"sha256": READER}]), "a: sha256 must be 64"),
        (json.dumps([entry(READER, "a", "scim") | {"sha256": "A" * 64}]), "a: sha256 must be 64"),
        (json.dumps([entry(READER, "a", "scim") | {"scopes": "scim"}]), "scopes must be a list"),
        (json.dumps([entry(READER, "a")]), "scopes must be some of"),
        (json.dumps([entry(READER, "a", "users:fly")]), "scopes must be some of"),
        (json.dumps([entry(READER, "a", "scim") | {"scopes": [["scim"]]}]), "scopes must be some of"),
        (json.dumps([entry(READER, "a", "scim") | {"expires": "tomorrow"}]), "expires must be a time"),
        (json.dumps([entry(READER, "a", "scim") | {"expires": 1}]), "expires must be a time"),
        *(
            (json.dumps([entry(READER, name, "scim")]), "a name has up to")
            for name in ("", "A b", "-", "a" * 64, "ä\n")
        ),
        (json.dumps([entry(READER, "a", "scim") | {"name": None}]), "a name has up to"),
        (json.dumps([entry(READER, "0123abcd", "scim")]), "the name of a key of INTERNAL_API_KEY"),
        (
            json.dumps([entry(WRITER, "b", "scim"), *[entry(READER, "a", "scim")] * 2]),
            "entry 3: the key of entry 2 again",
        ),
    ],
)
def test_a_list_that_is_wrong_is_refused_without_a_word_of_a_key(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as refused:
        parse_api_keys(text)

    assert READER not in str(refused.value)
