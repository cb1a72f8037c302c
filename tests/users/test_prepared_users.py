"""Users whose rows are prepared before the transaction that inserts them."""

from pathlib import Path

import pytest

from support.api import USERS
from support.application import running
from support.settings import ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY, make_settings
from support.tokens_kept import key_ids
from user_service.encryption.key_registry import check_keys
from user_service.users.bulk_insert import PreparedUsers
from user_service.users.change_log import Origin
from user_service.users.schemas import ImportedUser, UserCreate
from user_service.values.encryption_keys import parse_encryption_keys
from user_service.values.ids import new_id

pytestmark = pytest.mark.anyio
BOTH = f"{ENCRYPTION_KEY},{OTHER_ENCRYPTION_KEY}"
ORIGIN = Origin("test", "r-1", "00-" + "1" * 32 + "-" + "1" * 16 + "-01")


@pytest.mark.parametrize("many", [3, 300])
async def test_rows_encrypted_under_a_retired_key_are_encrypted_again(
    database_url: str, tmp_path: Path, many: int
) -> None:
    bodies = [UserCreate(email=f"{number}@example.org", given_name="Ada") for number in range(many)]
    async with running(make_settings(database_url, tmp_path, encryption_key=BOTH)) as client:
        database = client.resources.open_services().database
        prepared = await PreparedUsers.prepare(bodies, database.cipher, database.index)
        assert prepared.rows is not None
        assert prepared.rows.is_current(database.cipher, database.index)

        database.cipher.set_keys(parse_encryption_keys(BOTH), active_id=list(parse_encryption_keys(BOTH))[1])
        async with database.unit_of_work(ORIGIN) as service:
            outcomes = await service.create(bodies, prepared=prepared)

        assert {outcome.status for outcome in outcomes} == {"created"}
        assert set(await key_ids(database_url)) == {list(parse_encryption_keys(BOTH))[1]}
        found = await client.get(f"{USERS}/{outcomes[-1].unwrap().id}", headers={"Cache-Control": "no-cache"})
        assert found.json()["email"] == f"{many - 1}@example.org"


async def test_prepared_rows_are_inserted(database_url: str, tmp_path: Path) -> None:
    """Duplicates and taken keys are reported as for users that were not prepared."""
    emails = ["taken@example.org", *(f"{number}@example.org" for number in range(60)), "0@EXAMPLE.org"]
    bodies = [UserCreate(email=email, given_name="Grace") for email in emails]
    async with running(make_settings(database_url, tmp_path, encryption_key=BOTH)) as client:
        assert (await client.post(USERS, json={"email": "taken@example.org"})).status_code == 201
        database = client.resources.open_services().database
        prepared = await PreparedUsers.prepare(bodies, database.cipher, database.index)
        async with database.unit_of_work(ORIGIN) as service:
            outcomes = await service.create(bodies, prepared=prepared)

        errors = [outcome.error.code if outcome.error else None for outcome in outcomes]
        assert errors == ["email_taken", *[None] * 60, "duplicate_in_batch"]
        page = (await client.get(USERS, params={"q": "grace", "limit": 200})).json()
        assert {user["id"] for user in page["items"]} == {str(user.id) for user in prepared.users[1:-1]}


@pytest.mark.parametrize("many", [3, 300])
async def test_users_are_encrypted_once_when_an_id_among_them_is_used(
    database_url: str, tmp_path: Path, many: int
) -> None:
    """What was encrypted again would differ: each encryption has a nonce of its own."""
    ids = [str(new_id()) for _ in range(many)]
    bodies = [ImportedUser(email=f"{user_id}@example.org", id=user_id, username=user_id) for user_id in ids]
    async with running(make_settings(database_url, tmp_path)) as client:
        database = client.resources.open_services().database
        async with database.unit_of_work(ORIGIN) as service:
            await service.create([ImportedUser(email="first@example.org", id=ids[1])])
        prepared = await PreparedUsers.prepare(bodies, database.cipher, database.index)
        async with database.unit_of_work(ORIGIN) as service:
            outcomes = await service.create(bodies, prepared=prepared)

        assert [outcome.error.code for outcome in outcomes if outcome.error is not None] == ["id_taken"]
        assert prepared.rows is not None
        encrypted = {user.id: token for user, token in zip(prepared.unique, prepared.rows.tokens, strict=True)}
        rows = await client.resources.pool.fetch("SELECT id, personal FROM users WHERE id <> $1", bodies[1].id)
        del encrypted[bodies[1].id]
        assert {row["id"]: row["personal"] for row in rows} == encrypted
        found = await client.get(USERS, params={"username": ids[-1]})
        assert [user["id"] for user in found.json()["items"]] == [ids[-1]]


async def test_rows_are_current_after_the_keys_were_compared_with_the_database_again(
    database_url: str, tmp_path: Path
) -> None:
    """Only another key makes a new index, without the cached terms."""
    async with running(make_settings(database_url, tmp_path)) as client:
        database = client.resources.open_services().database
        prepared = await PreparedUsers.prepare([UserCreate(email="ada@example.org")], database.cipher, database.index)
        await check_keys(client.application.resources.pool, database.keys)
        assert prepared.rows is not None
        assert prepared.rows.is_current(database.cipher, database.index)
