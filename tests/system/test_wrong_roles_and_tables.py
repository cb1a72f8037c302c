"""Tables that the role may not use, or that are not there: the answer and the log say so, and nothing is restarted."""

import asyncio
from pathlib import Path

import pytest

from support.api import USERS
from support.application import Client, running
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually

FRESH = {"Cache-Control": "no-cache"}
READY = "/api/health/ready"
MAY_NOT = "The role of DATABASE_URL may not use the tables"
NOT_MIGRATED = "run `user-service migrate`"


def database_name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


async def ask(client: Client, path: str) -> list[tuple[int, str]]:
    responses = [
        await client.get(path, headers=FRESH),
        await client.get(USERS),
        await client.patch(path, json={"given_name": "Ada"}),
        await client.post(f"{USERS}/batch/create", json={"items": [{"data": {"email": "b@example.org"}}]}),
        await client.get(f"{USERS}/export"),
    ]
    return [(response.status_code, response.json().get("detail", "")) for response in responses]


async def is_ready(client: Client) -> bool:
    return (await client.get(READY)).status_code == 200


async def test_a_role_without_permissions_is_named_at_the_start_and_while_running(
    database_url: str, postgres: PostgresServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    role, inside = f"poor_{database_name(database_url)}", f'\\c "{database_url}"\n'
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    url = database_url.replace("postgres@", f"{role}@", 1)
    async with running(make_settings(url, tmp_path, cache="none")) as client:
        refused = await client.get(USERS)
        said = capfd.readouterr().err
        postgres.execute(f"{inside}GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await eventually(lambda: is_ready(client))
        path = await client.make()
        postgres.execute(f"{inside}REVOKE ALL ON users FROM {role}")
        responses = await ask(client, path)
        postgres.execute(f"{inside}GRANT ALL ON users TO {role}")
        mended = await client.get(path, headers=FRESH)
    postgres.execute(f"{inside}DROP OWNED BY {role}; DROP ROLE {role}")

    assert refused.status_code == 503
    assert MAY_NOT in said
    assert [status for status, _ in responses] == [503] * 5
    assert [detail for _, detail in responses if MAY_NOT not in detail] == []
    assert mended.status_code == 200


async def test_tables_that_are_replaced_while_running_are_a_503(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    """As `pg_restore --clean` does, which removes the tables and makes them again."""
    rename = f'\\c "{database_url}"\nALTER TABLE {{}} RENAME TO {{}}'
    async with running(make_settings(database_url, tmp_path, cache="none")) as client:
        path = await client.make()
        await asyncio.to_thread(postgres.execute, rename.format("users", "away"))
        responses = await ask(client, path)
        await asyncio.to_thread(postgres.execute, rename.format("away", "users"))
        mended = await client.get(path, headers=FRESH)

    assert [status for status, _ in responses] == [503] * 5
    assert [detail for _, detail in responses if NOT_MIGRATED not in detail] == []
    assert mended.status_code == 200
