"""Stops: a request under way is answered, and what was acknowledged is there after a start."""

import asyncio
import signal
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import pytest

from support.api import USERS, created_path
from support.postgres_faults import frozen
from support.process import serving
from support.servers import PostgresServer
from support.settings import API_KEY
from support.waiting import eventually
from user_service.postgres.migrations import upgrade

KEY = {"X-API-Key": API_KEY}


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_requests_under_way_are_answered_and_new_ones_are_not_taken(
    database_url: str, tmp_path: Path, number: int, expected: int
) -> None:
    with serving(tmp_path, DATABASE_URL=database_url) as service:
        async with httpx.AsyncClient(base_url=service.url, headers=KEY, timeout=60) as client:
            path = created_path(await client.post(USERS, json={"email": "ada@example.org"}))
            holder = await asyncpg.connect(database_url)
            hold = holder.transaction()
            await hold.start()
            await holder.execute("SELECT 1 FROM users FOR UPDATE")
            under_way = asyncio.create_task(client.patch(path, json={"given_name": "Ada"}))
            await waits_for_a_lock(database_url)
            service.signal(number)
            await asyncio.to_thread(service.wait_for, "Shutting down")
            await eventually(partial(refuses, service.url))
            await hold.rollback()
            answer = await under_way
            await holder.close()
        async with asyncio.timeout(60):
            status = await asyncio.to_thread(service.process.wait)

    assert (answer.status_code, answer.json()["given_name"]) == (200, "Ada")
    assert status == expected


async def test_readers_that_wait_for_a_change_are_answered_at_once(database_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, SHUTDOWN_TIMEOUT="300") as service:
        async with httpx.AsyncClient(base_url=service.url, headers=KEY, timeout=60) as client:
            await client.post(USERS, json={"email": "ada@example.org"})
            cursor = (await client.get(f"{USERS}/changes")).json()["next_cursor"]
            query = {"after": cursor, "wait": "20"}
            waiting = [asyncio.create_task(client.get(f"{USERS}/changes", params=query)) for _ in range(3)]

            async def all_wait() -> bool:
                return "\nuser_feed_waiters 3.0\n" in (await client.get("/metrics")).text

            await eventually(all_wait)
            service.signal(signal.SIGTERM)
            answers = [await response for response in waiting]
        status = await asyncio.to_thread(service.process.wait)

    assert [(answer.status_code, answer.json()["items"]) for answer in answers] == [(200, [])] * 3
    assert {answer.json()["next_cursor"] for answer in answers} == {cursor}
    assert status == 0


async def refuses(url: str) -> bool:
    """Whether nothing listens there. The service says that it shuts down a moment before it closes its sockets."""
    async with httpx.AsyncClient(base_url=url) as client:
        try:
            await client.get("/api/health/live")
        except httpx.ConnectError:
            return True
        except httpx.TransportError:
            return False
    return False


async def waits_for_a_lock(url: str) -> None:
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(60):
        waiting = 0
        while not waiting:
            await asyncio.sleep(0.02)
            waiting = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
    await connection.close()


async def test_a_request_that_does_not_end_does_not_keep_the_service(database_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, SHUTDOWN_TIMEOUT="1") as service:
        host, port = service.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nX-API-Key: ")
        writer.write(API_KEY.encode() + b"\r\nContent-Type: application/json\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.2)
        async with asyncio.timeout(60):
            status = await asyncio.to_thread(service.stop)
        writer.close()

    assert status == 0
    assert "Traceback" not in service.read_log()


async def test_a_stop_does_not_wait_for_a_server_that_is_silent(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """Its connections can't be closed in peace, and to wait for each takes longer than a pod has for its stop."""
    url = own_postgres.create_database("users")
    await asyncio.to_thread(upgrade, url)
    settings = {"DATABASE_URL": url, "DATABASE_READ_URL": url, "SHUTDOWN_TIMEOUT": "1", "DATABASE_TIMEOUT": "1"}
    with serving(tmp_path, **settings) as service:
        async with service.async_client() as client:
            emails = [f"u{number}@example.org" for number in range(40)]
            made = await asyncio.gather(*(client.post(USERS, json={"email": email}) for email in emails))
            listed = await asyncio.gather(*(client.get(USERS) for _ in range(40)))
        with frozen(own_postgres):
            async with asyncio.timeout(60):
                status = await asyncio.to_thread(service.stop)

    assert {answer.status_code for answer in (*made, *listed)} <= {200, 201}
    assert status == 0
    assert "Exception closing connection" not in service.read_log()
    assert "Traceback" not in service.read_log()


def test_what_was_acknowledged_survives_a_kill_of_the_service_and_its_database(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        with service.client() as client:
            path = created_path(client.post(USERS, json={"email": "ada@example.org"}))
            named = client.patch(path, json={"given_name": "Ada"})
        service.signal(signal.SIGKILL)
        service.process.wait(60)
    with serving(tmp_path) as service:
        with service.client() as client:
            found = client.get(path)
            by_email = client.get(USERS, params={"email": "ADA@example.org"}).json()["items"]
        status = service.stop()

    assert named.status_code == 200
    assert found.json() == named.json()
    assert by_email == [found.json()]
    assert status == 0
    assert not (tmp_path / "data/postgres/postmaster.pid").exists()


def test_two_services_on_one_folder_work_on_the_same_data(tmp_path: Path) -> None:
    with serving(tmp_path) as one, serving(tmp_path) as other:
        with one.client() as first, other.client() as second:
            path = created_path(first.post(USERS, json={"email": "ada@example.org"}))
            seen = second.get(path)
            changed = second.patch(path, json={"given_name": "Ada"})
            taken = second.post(USERS, json={"email": "Ada@example.org"})
            status = one.stop()
            still_there = second.get(path)
            fresh = second.get(path, headers={"Cache-Control": "no-cache"})
        last_status = other.stop()

    assert (seen.status_code, changed.status_code, taken.status_code) == (200, 200, 409)
    assert still_there.json() == fresh.json() == changed.json()
    assert (status, last_status) == (0, 0)
