"""`user-service reencrypt`: everything under a former key is encrypted again, and then nothing needs that key."""

import asyncio
import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.api import USERS
from support.application import Client, running
from support.process import command
from support.settings import ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY, make_environ, make_settings
from support.tokens_kept import binary_columns, key_ids, meta
from support.waiting import eventually
from user_service.encryption.keyring import load_keys
from user_service.errors import ConfigurationError
from user_service.users.encrypted_columns import ENCRYPTED_COLUMNS

pytestmark = pytest.mark.distributed

K1, K2 = ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY
# Replicas are not what these tests are about: what was retired a moment ago is retired.
QUICK = {"SECRETS_RELOAD_SECONDS": "1", "REQUEST_TIMEOUT": "1"}
# Hashes and HMACs.
NOT_SEALED = {
    "identifiers.index",
    "inbox.digest",
    "idempotency_keys.id",
    "idempotency_keys.fingerprint",
    "imports.key",
    "imports.fingerprint",
}


async def read_rows(url: str, columns: str = "id, version, updated_at, metadata") -> list[Any]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(f"SELECT {columns} FROM users ORDER BY id")
    await connection.close()
    return [tuple(row) for row in rows]


async def reencrypt(
    url: str, folder: Path, *arguments: str, ring: str = f"{K2},{K1}", **environ: str
) -> subprocess.CompletedProcess[str]:
    given = {"DATABASE_URL": url, "ENCRYPTION_KEY": ring, **QUICK, **environ}
    return await asyncio.to_thread(command, folder, "reencrypt", *arguments, **given)


async def fill(client: Client, number: int = 25) -> list[str]:
    """Users, a deleted one among them, a kept answer and a kept reply; the paths of the users."""
    items = [{"data": {"email": f"{place}@example.org", "given_name": f"Ada {place}"}} for place in range(number)]
    made = await client.post(f"{USERS}/batch/create", json={"items": items}, headers={"Idempotency-Key": "first"})
    assert made.status_code in (200, 201), made.text
    event = {"specversion": "1.0", "id": "1", "source": "/tests", "type": "org.userservice.batch.find.v1"}
    replied = await client.post(
        "/events",
        json={**event, "data": {"ids": [], "emails": ["1@example.org"], "external_ids": []}},
        headers=AS_EVENT,
    )
    assert replied.status_code == 200, replied.text
    paths = [f"{USERS}/{item['id']}" for item in made.json()["items"]]
    assert (await client.delete(paths[0])).status_code == 204
    return paths


AS_EVENT = {"content-type": "application/cloudevents+json"}


async def list_names(client: Client, paths: list[str]) -> list[str]:
    responses = [await client.get(f"{path}?include=deleted", headers={"Cache-Control": "no-cache"}) for path in paths]
    return [response.json()["given_name"] for response in responses]


@pytest.fixture
async def paths(database_url: str, tmp_path: Path) -> list[str]:
    """Users of a database whose tokens are all under the first key."""
    async with running(make_settings(database_url, tmp_path)) as client:
        return await fill(client)


async def test_everything_sealed_opens_under_the_new_key_alone_and_nothing_else_has_changed(
    database_url: str, tmp_path: Path, paths: list[str]
) -> None:
    before = await read_rows(database_url)
    changes = await read_rows(database_url, "(SELECT count(*) FROM user_changes)")

    result = await reencrypt(database_url, tmp_path, "--batch-size", "7")

    assert result.returncode == 0, result.stderr
    assert "The key k1 can now be removed from ENCRYPTION_KEY." in result.stdout
    assert "27 rows encrypted again" in result.stdout
    assert set(await key_ids(database_url)) == {"k2"}
    assert await read_rows(database_url) == before
    assert await read_rows(database_url, "(SELECT count(*) FROM user_changes)") == changes
    assert "encryption-key:k1" not in await meta(database_url)
    printed = await asyncio.to_thread(
        command, tmp_path, "keys", "blind-index", DATABASE_URL=database_url, ENCRYPTION_KEY=f"{K2},{K1}"
    )
    alone = make_settings(database_url, tmp_path, encryption_key=K2, blind_index_key=printed.stdout.strip())
    async with running(alone) as client:
        assert await list_names(client, paths) == [f"Ada {place}" for place in range(25)]
        found = await client.get(USERS, params={"email": "3@example.org"})
        items = [{"data": {"email": f"{place}@example.org", "given_name": f"Ada {place}"}} for place in range(25)]
        replayed = await client.post(
            f"{USERS}/batch/create", json={"items": items}, headers={"Idempotency-Key": "first"}
        )
    assert len(found.json()["items"]) == 1
    assert replayed.headers["idempotency-replayed"] == "true"


async def test_without_its_key_the_blind_index_is_refused_with_the_remedy(
    database_url: str, tmp_path: Path, paths: list[str]
) -> None:
    result = await reencrypt(database_url, tmp_path)

    refused = await asyncio.to_thread(command, tmp_path, "serve", DATABASE_URL=database_url, ENCRYPTION_KEY=K2)

    assert "Before that, set BLIND_INDEX_KEY" in result.stdout
    assert refused.returncode == 2
    assert "user-service keys blind-index" in refused.stderr
    assert set(await key_ids(database_url)) == {"k2"}


async def test_the_printed_blind_index_key_is_the_one_in_use(database_url: str, tmp_path: Path) -> None:
    settings = make_settings(database_url, tmp_path)
    async with running(settings):
        pass

    for ring in (K1, f"{K1},{K2}", f"{K2},{K1}"):
        result = await asyncio.to_thread(
            command, tmp_path, "keys", "blind-index", DATABASE_URL=database_url, ENCRYPTION_KEY=ring
        )
        assert base64.b64decode(result.stdout) == load_keys(settings).blind_index


async def test_a_dry_run_counts_and_changes_nothing(database_url: str, tmp_path: Path, paths: list[str]) -> None:
    before = await read_rows(database_url, "*"), await meta(database_url)

    result = await reencrypt(database_url, tmp_path, "--dry-run", "--batch-size", "4")

    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "idempotency_keys: 1 rows under k1",
        "inbox: 1 rows under k1",
        "users: 25 rows under k1",
        "27 rows of 27 are to be encrypted again.",
    ]
    assert (await read_rows(database_url, "*"), await meta(database_url)) == before


@pytest.mark.one_server
async def test_a_run_that_was_killed_is_gone_on_with(database_url: str, tmp_path: Path, paths: list[str]) -> None:
    connection = await asyncpg.connect(database_url)
    holding = connection.transaction()
    await holding.start()
    await connection.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", paths[9].rpartition("/")[2])
    environ = {"DATABASE_URL": database_url, "ENCRYPTION_KEY": f"{K2},{K1}", **QUICK}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "user_service.cli.main", "reencrypt", "--batch-size", "3"),
        env=make_environ(tmp_path, environ),
    )

    async def is_held_up() -> bool:
        return (await key_ids(database_url))["k1"] == 1

    await eventually(is_held_up)
    process.kill()
    await process.wait()
    left = await key_ids(database_url)
    await holding.rollback()
    await connection.close()

    result = await reencrypt(database_url, tmp_path)

    assert left == {"k1": 1, "k2": 26}
    assert result.returncode == 0, result.stderr
    assert "1 rows encrypted again" in result.stdout
    assert await key_ids(database_url) == {"k2": 27}


async def test_a_row_that_does_not_decrypt_is_left_and_reported_and_its_key_stays_needed(
    database_url: str, tmp_path: Path, paths: list[str]
) -> None:
    broken = paths[3].rpartition("/")[2]
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE users SET personal = personal || '\\x00' WHERE id = $1", broken)
    await connection.close()

    result = await reencrypt(database_url, tmp_path)

    assert result.returncode == 1
    assert f"users {broken}" in result.stderr
    assert "1 under k1" in result.stderr
    assert "can now be removed" not in result.stdout
    assert await key_ids(database_url) == {"k1": 1, "k2": 26}
    assert "encryption-key:k1" in await meta(database_url)


async def test_a_retired_key_seals_nothing_wherever_it_stands(
    database_url: str, tmp_path: Path, paths: list[str]
) -> None:
    await reencrypt(database_url, tmp_path)

    async with running(make_settings(database_url, tmp_path, encryption_key=f"{K1},{K2}")) as client:
        await client.make()
    again = await reencrypt(database_url, tmp_path, ring=f"{K1},{K2}")
    with pytest.raises(ConfigurationError, match="there is no other key to seal with"):
        async with running(make_settings(database_url, tmp_path, encryption_key=K1)):
            pass

    assert set(await key_ids(database_url)) == {"k2"}
    assert again.returncode == 2
    assert "--go-back" in again.stderr


async def test_a_former_key_can_be_gone_back_to(database_url: str, tmp_path: Path, paths: list[str]) -> None:
    await reencrypt(database_url, tmp_path)

    result = await reencrypt(database_url, tmp_path, "--go-back", ring=f"{K1},{K2}")

    assert result.returncode == 0, result.stderr
    assert "The key k2 can now be removed" in result.stdout
    assert set(await key_ids(database_url)) == {"k1"}


async def test_a_key_that_waits_to_be_used_is_not_retired(database_url: str, tmp_path: Path, paths: list[str]) -> None:
    result = await reencrypt(database_url, tmp_path, ring=f"{K1},{K2}")

    assert result.returncode == 0, result.stderr
    assert "can now be removed" not in result.stdout
    assert not any(name.startswith("retired-key:") for name in await meta(database_url))


@pytest.mark.parametrize("size", ["0", "10001", "-1"])
async def test_a_batch_size_out_of_bounds_is_refused(database_url: str, tmp_path: Path, size: str) -> None:
    result = await reencrypt(database_url, tmp_path, "--batch-size", size)

    assert result.returncode == 2
    assert "--batch-size" in result.stderr


async def test_an_unreachable_database_is_reported(tmp_path: Path) -> None:
    result = await reencrypt("postgresql://nobody@127.0.0.1:1/nothing", tmp_path)

    assert result.returncode == 1
    assert "does not answer. The same command resumes" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_binary_column_is_sealed_again_or_known_to_be_no_token() -> None:
    binary = {f"{table}.{name}" for table, names in binary_columns().items() for name in names}

    assert binary == NOT_SEALED | {f"{each.table}.{each.column}" for each in ENCRYPTED_COLUMNS}
