"""A real PgBouncer between the service and PostgreSQL, configured as docs/connections.md says."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.api import USERS
from support.application import Client, running
from support.changes import read_all
from support.pgbouncer import ROLE, documented, find_program, pgbouncer
from support.process import command
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import PATIENCE_SECONDS, eventually
from user_service.errors import ConfigurationError

MODES = [("transaction", True), ("session", True), ("session", False)]


@pytest.fixture
def role(own_postgres: PostgresServer) -> PostgresServer:
    """A server with the documented role, and a migrated database of its own."""
    from user_service.postgres.migrations import upgrade

    own_postgres.execute(f"CREATE ROLE {ROLE} LOGIN")
    own_postgres.execute(documented("sql"))
    upgrade(own_postgres.create_database("users"))
    own_postgres.execute(f'\\c "{own_postgres.url("users")}"\nGRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE};')
    return own_postgres


@contextmanager
def url_of_pooler(server: PostgresServer, *, pool_mode: str, keeps_statements: bool, **settings: str) -> Iterator[str]:
    program = find_program(keeps_statements=keeps_statements)
    with pgbouncer(program, server, pool_mode=pool_mode, **settings) as pooler:
        yield pooler.url("users")


@pytest.fixture(params=MODES, ids=lambda mode: f"{mode[0]}-{'from 1.21' if mode[1] else 'before 1.21'}")
def pooler_url(role: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    pool_mode, keeps_statements = request.param
    # In session mode each connection of the service needs a session.
    size = "2" if pool_mode == "transaction" else "20"
    with url_of_pooler(role, pool_mode=pool_mode, keeps_statements=keeps_statements, default_pool_size=size) as url:
        yield url


@pytest.fixture
async def client(role: PostgresServer, pooler_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    """A service whose timeouts are far beyond what its requests take, however busy the machine is."""
    for name in ("statement_timeout", "lock_timeout"):
        role.execute(f"ALTER ROLE {ROLE} SET {name} = '{PATIENCE_SECONDS:.0f}s'")
    patient = {"database_timeout": int(PATIENCE_SECONDS), "request_timeout": int(PATIENCE_SECONDS)}
    async with running(
        make_settings(pooler_url, tmp_path, cache="none", postgres_max_connections=12, **patient)
    ) as client:
        yield client


async def test_everything_works_through_a_pooler(client: Client) -> None:
    paths = [await client.make(given_name="Ada", metadata={"plan": "pro"}) for _ in range(20)]
    for _ in range(3):
        responses = await asyncio.gather(
            *(client.get(path) for path in paths),
            *(client.patch(path, json={"given_name": "Grace"}) for path in paths),
            *(client.get(USERS, params={"q": "grace", "limit": "5"}) for _ in paths),
            *(client.post(f"{path}/login") for path in paths),
        )
        assert {response.status_code for response in responses} <= {200, 204}, [
            a.text for a in responses if a.status_code > 299
        ]
    lines = b"".join(json.dumps({"email": f"u{number}@example.org"}).encode() + b"\n" for number in range(3000))
    imported = await client.post(f"{USERS}/imports", content=lines, headers={"Content-Type": "application/x-ndjson"})
    exported = await client.get(f"{USERS}/export")
    once = [
        await client.post(USERS, json={"email": "once@example.org"}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    person = await client.get(f"{paths[0]}/export")
    purged = await client.delete(paths[0], params={"purge": "true"})

    followed = await read_all(client)

    assert len(followed) == 20 * 5 + 3000 + 1 + 1
    assert (imported.status_code, imported.json()["created"]) == (202, 3000)
    assert len(exported.text.splitlines()) == 3020
    assert [response.status_code for response in once] == [201, 201]
    assert once[0].json() == once[1].json()
    assert (person.status_code, purged.status_code) == (200, 204)


async def test_timeouts_hold_through_a_pooler(pooler_url: str, tmp_path: Path) -> None:
    """The timeouts are those of the role: PgBouncer does not pass on the ones of the connection."""
    async with running(make_settings(pooler_url, tmp_path)) as client:
        rows = await client.resources.pool.fetch(
            "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('jit')"
        )

    assert tuple(rows[0]) == ("5s", "3s", "off")


async def test_an_old_pooler_in_transaction_mode_is_refused(role: PostgresServer, tmp_path: Path) -> None:
    with url_of_pooler(role, pool_mode="transaction", keeps_statements=False) as url:
        with pytest.raises(ConfigurationError, match=r"PgBouncer 1\.21 or later"):
            async with running(make_settings(url, tmp_path)):
                pass
        doctor = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=url)

    assert doctor.returncode == 1
    assert "PgBouncer 1.21 or later" in doctor.stdout


async def test_a_pooler_without_max_prepared_statements_is_refused(role: PostgresServer, tmp_path: Path) -> None:
    pooler = url_of_pooler(role, pool_mode="transaction", keeps_statements=True, max_prepared_statements="0")
    with pooler as url, pytest.raises(ConfigurationError, match="max_prepared_statements = 200"):
        async with running(make_settings(url, tmp_path)):
            pass


async def test_a_pooler_that_refuses_the_settings_is_named(role: PostgresServer, tmp_path: Path) -> None:
    pooler = url_of_pooler(role, pool_mode="transaction", keeps_statements=True, ignore_startup_parameters="options")
    with pooler as url:
        with pytest.raises(ConfigurationError, match="set ignore_startup_parameters"):
            async with running(make_settings(url, tmp_path)):
                pass
        doctor = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=url)

    assert doctor.returncode == 1
    assert "ignore_startup_parameters" in doctor.stdout


async def test_doctor_names_settings_that_the_role_lacks(role: PostgresServer, tmp_path: Path) -> None:
    with url_of_pooler(role, pool_mode="transaction", keeps_statements=True) as url:
        fine = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=url)
        role.execute(f"ALTER ROLE {ROLE} RESET lock_timeout")
        role.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'users'")
        lacking = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=url)

    assert fine.returncode == 0, fine.stdout
    assert "through a pooler" in fine.stdout
    assert lacking.returncode == 1
    assert "lock_timeout = 3s" in lacking.stdout


async def test_a_pooler_that_stops_keeping_statements_is_a_503_that_names_it(
    role: PostgresServer, tmp_path: Path
) -> None:
    """As when max_prepared_statements is set to 0 and PgBouncer is restarted behind the same address."""
    with pgbouncer(find_program(keeps_statements=True), role) as pooler:
        async with running(make_settings(pooler.url("users"), tmp_path, cache="none")) as client:
            path = await client.make()
            await asyncio.to_thread(pooler.stop)
            await asyncio.to_thread(pooler.start, max_prepared_statements="0")
            responses = []
            for _ in range(10):
                responses += await asyncio.gather(
                    *(client.get(path) for _ in range(10)),
                    *(client.get(USERS) for _ in range(10)),
                    *(client.patch(path, json={"given_name": "Ada"}) for _ in range(10)),
                )
            await asyncio.to_thread(pooler.stop)
            await asyncio.to_thread(pooler.start)

            async def is_well() -> bool:
                response = await client.patch(path, json={"given_name": "Grace"})
                return response.status_code == 200

            await eventually(is_well)

    refused = [response for response in responses if response.status_code != 200]
    assert {response.status_code for response in refused} == {503}
    assert any("PgBouncer 1.21 or later" in response.json()["detail"] for response in refused)
