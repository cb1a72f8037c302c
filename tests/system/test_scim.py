"""SCIM in whole processes, and beside faults of PostgreSQL."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from support.application import running
from support.postgres_faults import stopped
from support.scim import PATCH, USERS, expect_scim_error, new_user
from support.servers import PostgresServer
from support.settings import make_settings

# A process of its own, because the tests of this one import the libraries.
IMPORTS = """
import asyncio, sys
from pathlib import Path
import httpx
from support.application import running
from support.settings import make_settings

async def main():
    async with running(make_settings(sys.argv[1], Path(sys.argv[2]), scim=True)) as client:
        await client.make()
        before = [name for name in sys.modules if name.startswith(("scim2", "lark"))]
        response = await client.get("/scim/v2/Users")
        print(len(before), response.status_code, response.json()["totalResults"], "scim2_server.handler" in sys.modules)

asyncio.run(main())
"""


def test_the_libraries_are_imported_at_the_first_request_below_scim(database_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, database_url, str(tmp_path)],
        env={"PYTHONPATH": "tests:func", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.stdout.split() == ["0", "200", "1", "True"], done.stderr


async def test_a_database_that_is_away_is_unavailable_in_scim_s_form(
    spare_url: str, spare_postgres: PostgresServer, tmp_path: Path
) -> None:
    async with running(make_settings(spare_url, tmp_path, scim=True)) as client:
        assert (await client.post(USERS, json=new_user())).status_code == 201
        with stopped(spare_postgres):
            for response in (await client.get(USERS), await client.post(USERS, json=new_user())):
                expect_scim_error(response, 503)
                assert response.headers["retry-after"]


@pytest.mark.distributed
async def test_twenty_provisions_of_one_user_at_once_make_one(database_url: str, tmp_path: Path) -> None:
    body = new_user(externalId="00u1", displayName="Ada")
    async with running(make_settings(database_url, tmp_path, scim=True)) as client:
        responses = await asyncio.gather(*(client.post(USERS, json=body) for _ in range(20)))
        found = (await client.get(USERS)).json()

    assert sorted(response.status_code for response in responses) == [201] + [409] * 19
    for response in responses:
        if response.status_code == 409:
            expect_scim_error(response, 409, "uniqueness")
    assert found["totalResults"] == 1


@pytest.mark.distributed
async def test_patches_of_one_user_at_once_lose_nothing(database_url: str, tmp_path: Path) -> None:
    async with running(make_settings(database_url, tmp_path, scim=True)) as client:
        created = (await client.post(USERS, json=new_user())).json()
        operations = [
            {"op": "add", "path": f'roles[value eq "role-{number}"].display', "value": "x"} for number in range(20)
        ]
        patches = [{"schemas": [PATCH], "Operations": [operation]} for operation in operations]
        responses = await asyncio.gather(*(client.patch(f"{USERS}/{created['id']}", json=patch) for patch in patches))
        shown = (await client.get(f"{USERS}/{created['id']}")).json()

    assert {response.status_code for response in responses} == {200}
    assert {role["value"] for role in shown["roles"]} == {f"role-{number}" for number in range(20)}
    assert shown["meta"]["version"] == 'W/"21"'
