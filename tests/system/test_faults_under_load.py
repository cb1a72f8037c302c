"""Faults of PostgreSQL and of its pooler under a load that records every acknowledged write: none is lost or doubled.

A fault that meets no request proves nothing: each one waits for refusals, or for writes after it.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from support.api import USERS
from support.application import running
from support.event_sink import Sink
from support.pgbouncer import ROLE, PgBouncer, documented, find_program, pgbouncer
from support.postgres_faults import end_sessions, restart_as_standby
from support.process import command
from support.recorded_writes import RecordedWrites
from support.rotation import check, replica
from support.secret_files import SecretFolder
from support.servers import PostgresServer
from support.settings import API_KEY, ENCRYPTION_KEY, make_settings
from support.waiting import eventually, wait_until
from user_service.postgres.migrations import upgrade

RECORDS = 8000
IMPORT_HEADERS = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "the-file"}


@pytest.fixture
def server(own_postgres: PostgresServer) -> PostgresServer:
    """A server with the database `users`, whose acknowledged commits survive a crash."""
    upgrade(own_postgres.create_database("users"))
    own_postgres.execute("ALTER DATABASE users SET synchronous_commit = on")
    return own_postgres


@pytest.fixture
def url(server: PostgresServer) -> str:
    """The database for a role that limits of connections hold for."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN")
    server.execute(f'\\c "{server.url("users")}"\nGRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}')
    return server.url("users").replace("postgres@", f"{ROLE}@", 1)


async def end_all_sessions(server: PostgresServer, writes: RecordedWrites) -> None:
    """SQLSTATE 57P01 in the middle of statements and of commits."""
    for _ in range(10):
        await asyncio.to_thread(end_sessions, server)
        await writes.go_on(20)


async def restart(server: PostgresServer, writes: RecordedWrites) -> None:
    for _ in range(3):
        await asyncio.to_thread(server.restart)
        await writes.go_on()


async def crash(server: PostgresServer, writes: RecordedWrites) -> None:
    """The server recovers before it takes connections: SQLSTATE 57P03."""
    for _ in range(3):
        assert server.process is not None
        server.process.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(server.process.wait)
        await asyncio.to_thread(server.start)
        await writes.go_on()


async def crash_one_session(server: PostgresServer, writes: RecordedWrites) -> None:
    """The server ends all other sessions too, and recovers by itself."""
    session = "SELECT pid FROM pg_stat_activity WHERE application_name = 'user-service' LIMIT 1"
    for _ in range(3):
        pid = await asyncio.to_thread(server.execute, session)
        psutil.Process(int(pid)).kill()
        await writes.go_on()


async def become_a_standby_and_be_promoted(server: PostgresServer, writes: RecordedWrites) -> None:
    """SQLSTATE 25006, and connections that are refused because the server is no primary."""
    for _ in range(2):
        await asyncio.to_thread(restart_as_standby, server)
        await writes.be_refused()
        await asyncio.to_thread(server.execute, "SELECT pg_promote()")
        await writes.go_on()


async def become_read_only(server: PostgresServer, writes: RecordedWrites) -> None:
    for _ in range(3):
        await asyncio.to_thread(set_read_only, server, "on")
        await writes.be_refused()
        await asyncio.to_thread(set_read_only, server, "off")
        await writes.go_on()


async def have_no_free_connection(server: PostgresServer, writes: RecordedWrites) -> None:
    """SQLSTATE 53300, first with the connections that are open, then without any."""
    await asyncio.to_thread(server.execute, "ALTER DATABASE users CONNECTION LIMIT 0")
    await writes.go_on()
    await asyncio.to_thread(end_sessions, server)
    await writes.be_refused()
    await asyncio.to_thread(server.execute, "ALTER DATABASE users CONNECTION LIMIT 2")
    await writes.go_on()
    await asyncio.to_thread(server.execute, "ALTER DATABASE users CONNECTION LIMIT -1")


Fault = Callable[[PostgresServer, RecordedWrites], Awaitable[None]]
FAULTS: list[Fault] = [
    end_all_sessions,
    restart,
    crash,
    crash_one_session,
    become_a_standby_and_be_promoted,
    become_read_only,
    have_no_free_connection,
]


async def put_fault(
    url: str, folder: Path, fault: Callable[[RecordedWrites], Awaitable[None]], **settings: str
) -> RecordedWrites:
    given = {"cache": "none", "database_timeout": 2, "postgres_max_connections": 12, **settings}
    async with running(make_settings(url, folder, **given)) as client:
        writes = RecordedWrites(client)
        async with writes.running():
            await fault(writes)
    return writes


def count_rows(server: PostgresServer, table: str) -> int:
    return int(server.execute(f'\\c "{server.url("users")}"\nSELECT count(*) FROM {table}'))


async def has_imported(server: PostgresServer, number: int) -> bool:
    return await asyncio.to_thread(count_rows, server, "users") >= number


def set_read_only(server: PostgresServer, value: str) -> None:
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value};\nSELECT pg_reload_conf()")
    # The server reads its settings a moment later.
    wait_until(lambda: server.execute("SHOW default_transaction_read_only").strip() == value, f"read-only {value}")


# What is done to the server in the middle of an import, and how it ends.
FAULTS_OF_IMPORTS: dict[str, tuple[Callable[[PostgresServer], object], Callable[[PostgresServer], object]]] = {
    "restart": (PostgresServer.restart, end_sessions),
    "standby": (restart_as_standby, lambda server: server.execute("SELECT pg_promote()")),
    "read-only": (lambda server: set_read_only(server, "on"), lambda server: set_read_only(server, "off")),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_the_server_loses_and_doubles_nothing(
    server: PostgresServer, url: str, tmp_path: Path, fault: Fault
) -> None:
    writes = await put_fault(url, tmp_path, lambda writes: fault(server, writes))

    await writes.verify(server.url("users"))


@pytest.mark.parametrize("fault", [end_all_sessions, crash, become_a_standby_and_be_promoted])
async def test_every_event_is_delivered_in_order_whatever_befalls_the_server(
    server: PostgresServer, url: str, tmp_path: Path, sink: Sink, fault: Fault
) -> None:
    writes = await put_fault(url, tmp_path, lambda writes: fault(server, writes), k_sink=sink.url)
    relayed = await asyncio.to_thread(command, tmp_path, "relay", DATABASE_URL=server.url("users"), K_SINK=sink.url)

    await writes.verify(server.url("users"))
    assert relayed.returncode == 0, relayed.stderr
    versions = sink.versions()
    assert {f"{USERS}/{user}": len(seen) for user, seen in versions.items() if len(seen) > 1} == {
        path: 1 + number for path, number in writes.changes.items()
    }
    assert all(seen == list(range(1, len(seen) + 1)) for seen in versions.values())
    assert len(versions) == len(writes.created)


@pytest.mark.parametrize("fault", FAULTS_OF_IMPORTS)
async def test_an_import_goes_on_after_a_fault_in_its_middle(
    server: PostgresServer, url: str, tmp_path: Path, fault: str
) -> None:
    body = [json.dumps({"email": f"u{number}@example.org"}).encode() + b"\n" for number in range(RECORDS)]
    begin, end = FAULTS_OF_IMPORTS[fault]
    responses: list[httpx.Response] = []
    async with running(make_settings(url, tmp_path, cache="none", database_timeout=1)) as client:

        async def pieces(half: int) -> AsyncIterator[bytes]:
            """The file, with the fault after the first chunks."""
            yield b"".join(body[:half])
            await eventually(lambda: has_imported(server, half))
            await asyncio.to_thread(begin, server)
            yield b"".join(body[half:])

        async def is_well() -> bool:
            return (await client.get(f"{USERS}/imports")).status_code == 200

        for half in (2000, 4000, 6000):
            responses.append(await client.post(f"{USERS}/imports", content=pieces(half), headers=IMPORT_HEADERS))
            await asyncio.to_thread(end, server)
            await eventually(is_well)
        responses.append(await client.post(f"{USERS}/imports", content=b"".join(body), headers=IMPORT_HEADERS))

    refused = [response for response in responses if response.status_code != 202]
    assert [response.status_code for response in refused] == [503] * (3 if fault != "restart" else len(refused))
    assert {response.json()["code"] for response in refused} <= {"database_unavailable"}
    assert (responses[-1].json()["created"], responses[-1].json()["failed"]) == (RECORDS, 0)
    assert count_rows(server, "users") == count_rows(server, "user_changes") == RECORDS


@pytest.mark.parametrize("end", [PgBouncer.stop, PgBouncer.kill])
async def test_a_pooler_that_is_restarted_loses_and_doubles_nothing(
    server: PostgresServer, url: str, tmp_path: Path, end: Callable[[PgBouncer], None]
) -> None:
    server.execute(documented("sql"))
    with pgbouncer(find_program(keeps_statements=True), server, default_pool_size="8") as pooler:

        async def restart_pooler(writes: RecordedWrites) -> None:
            for _ in range(5):
                await asyncio.to_thread(end, pooler)
                await asyncio.to_thread(pooler.start, default_pool_size="8")
                await writes.go_on()

        writes = await put_fault(pooler.url("users"), tmp_path, restart_pooler)

    await writes.verify(server.url("users"))


@pytest.mark.parametrize("former", ["LOGIN", "NOLOGIN"])
async def test_another_user_loses_and_doubles_nothing_and_no_request_fails(
    server: PostgresServer, url: str, tmp_path: Path, former: str
) -> None:
    """`former`: whether the former user may still connect once the new one is in use."""
    server.execute(f"CREATE ROLE other LOGIN IN ROLE {ROLE}")
    keys = {"ENCRYPTION_KEY": ENCRYPTION_KEY, "INTERNAL_API_KEY": API_KEY}
    secrets = SecretFolder(tmp_path / "secrets", DATABASE_URL=url, **keys)
    async with replica("", secrets, POSTGRES_MAX_CONNECTIONS="12", CACHE="none") as client:
        writes = RecordedWrites(client)
        async with writes.running():
            for number in range(1, 6):
                old, new = (ROLE, "other") if number % 2 else ("other", ROLE)
                await asyncio.to_thread(server.execute, f"ALTER ROLE {new} LOGIN")
                secrets.swap(DATABASE_URL=url.replace(f"{ROLE}@", f"{new}@", 1))
                assert (await check(client))["applied"] == number
                await asyncio.to_thread(server.execute, f"ALTER ROLE {old} {former}")
                await writes.go_on()

    assert writes.statuses.keys() <= {200, 201}
    await writes.verify(server.url("users"))
