"""Users whose rows are made before the transaction that writes them."""

from pathlib import Path

import pytest

from support.running import ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY, USERS, running, settings_of
from support.tokens_kept import key_ids
from user_service.encryption.cipher import parse_keys
from user_service.encryption.key_registry import check_keys
from user_service.users.change_log import Origin
from user_service.users.prepared_users import PreparedUsers
from user_service.users.schemas import UserCreate

pytestmark = pytest.mark.anyio
BOTH = f"{ENCRYPTION_KEY},{OTHER_ENCRYPTION_KEY}"
ORIGIN = Origin("test", "r-1", "00-" + "1" * 32 + "-" + "1" * 16 + "-01")


@pytest.mark.parametrize("many", [3, 300])
async def test_rows_sealed_under_a_key_that_is_no_longer_first_are_made_again(
    database_url: str, tmp_path: Path, many: int
) -> None:
    bodies = [UserCreate(email=f"{number}@example.org", given_name="Ada") for number in range(many)]
    async with running(settings_of(database_url, tmp_path, encryption_key=BOTH)) as client:
        storage = client.resources.open_services().storage
        newcomers = await PreparedUsers.ready(bodies, storage.cipher, storage.index)
        assert newcomers.rows is not None
        assert newcomers.rows.fit(storage.cipher, storage.index)

        storage.cipher.use(parse_keys(BOTH), active_id=list(parse_keys(BOTH))[1])
        async with storage.unit_of_work(ORIGIN) as service:
            outcomes = await service.create(bodies, newcomers=newcomers)

        assert {outcome.status for outcome in outcomes} == {"created"}
        assert set(await key_ids(database_url)) == {list(parse_keys(BOTH))[1]}
        found = await client.get(f"{USERS}/{outcomes[-1].unwrap().id}", headers={"Cache-Control": "no-cache"})
        assert found.json()["email"] == f"{many - 1}@example.org"


async def test_rows_made_before_are_those_that_are_written(database_url: str, tmp_path: Path) -> None:
    """Twins and takers of a key are told as they are without."""
    emails = ["taken@example.org", *(f"{number}@example.org" for number in range(60)), "0@EXAMPLE.org"]
    bodies = [UserCreate(email=email, given_name="Grace") for email in emails]
    async with running(settings_of(database_url, tmp_path, encryption_key=BOTH)) as client:
        assert (await client.post(USERS, json={"email": "taken@example.org"})).status_code == 201
        storage = client.resources.open_services().storage
        newcomers = await PreparedUsers.ready(bodies, storage.cipher, storage.index)
        async with storage.unit_of_work(ORIGIN) as service:
            outcomes = await service.create(bodies, newcomers=newcomers)

        errors = [outcome.error.code if outcome.error else None for outcome in outcomes]
        assert errors == ["email_taken", *[None] * 60, "duplicate_in_batch"]
        page = (await client.get(USERS, params={"q": "grace", "limit": 200})).json()
        assert {user["id"] for user in page["items"]} == {str(user.id) for user in newcomers.users[1:-1]}


async def test_rows_still_fit_after_the_keys_were_compared_with_the_database_again(
    database_url: str, tmp_path: Path
) -> None:
    """The index is made anew, and forgets the terms that it knows, for another key alone."""
    async with running(settings_of(database_url, tmp_path)) as client:
        storage = client.resources.open_services().storage
        newcomers = await PreparedUsers.ready([UserCreate(email="ada@example.org")], storage.cipher, storage.index)
        await check_keys(client.application.resources.pool, storage.keys)
        assert newcomers.rows is not None
        assert newcomers.rows.fit(storage.cipher, storage.index)
