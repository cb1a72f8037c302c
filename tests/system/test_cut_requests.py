"""What the server cuts at its stop, or PostgreSQL in the middle of a response: a problem, or one line in the log."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from support.api import USERS, created_path
from support.live_server import read_until_closed
from support.process import ServiceProcess, serving
from support.settings import API_KEY
from support.waiting import eventually

IMPORTS = f"{USERS}/imports"
IMPORT_HEADERS = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "the-file"}
PAUSE_SECONDS = 40
RECORDS = [json.dumps({"email": f"u{number}@example.org"}).encode() + b"\n" for number in range(2500)]


def expect_shutting_down(response: httpx.Response) -> None:
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json"), response.text
    assert (response.json()["code"], response.headers["retry-after"]) == ("shutting_down", "1")


def expect_quiet(service: ServiceProcess) -> None:
    log = service.read_log()
    assert "Traceback" not in log
    assert "ASGI callable" not in log
    assert "asynchronous generator" not in log


async def end(service: ServiceProcess) -> int:
    service.signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        return await asyncio.to_thread(service.process.wait)


async def imported(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT coalesce(max(position), 0) FROM imports"))
    finally:
        await connection.close()


async def test_an_import_that_is_cut_is_a_503_and_goes_on_where_it_stopped(database_url: str, tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"".join(RECORDS[:2200])
        await ended.wait()

    with serving(tmp_path, DATABASE_URL=database_url, SHUTDOWN_TIMEOUT="1") as service:
        async with service.async_client() as client:
            sending = asyncio.create_task(client.post(IMPORTS, content=body(), headers=IMPORT_HEADERS))

            async def two_chunks() -> bool:
                return await imported(database_url) == 2000

            await eventually(two_chunks)
            status = await end(service)
            ended.set()
            cut = await sending
    with serving(tmp_path, DATABASE_URL=database_url) as again:
        async with again.async_client() as client:
            state = (await client.get(IMPORTS)).json()["items"][0]
            resumed = await client.post(IMPORTS, content=b"".join(RECORDS), headers=IMPORT_HEADERS)

    expect_shutting_down(cut)
    expect_quiet(service)
    assert status == 0
    assert (state["state"], state["position"]) == ("interrupted", 2000)
    assert (cut.json()["import"]["id"], cut.json()["import"]["position"]) == (state["id"], 2000)
    assert cut.headers["location"].endswith(f"imports/{state['id']}")
    assert (resumed.status_code, resumed.json()["created"]) == (202, 2500)


BATCH = {"items": [{"data": {"email": "grace@example.org"}}]}
EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/tests",
    "type": "org.userservice.batch.create.v1",
    "datacontenttype": "application/json",
    "data": BATCH,
}
EVENT_HEADERS = {"Content-Type": "application/cloudevents+json"}


@pytest.mark.parametrize("what", ["import", "update", "batch", "event", "list"])
async def test_a_request_that_waits_for_a_lock_is_a_503(database_url: str, tmp_path: Path, what: str) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, SHUTDOWN_TIMEOUT="1") as service:
        async with service.async_client() as client:
            path = created_path(await client.post(USERS, json={"email": "ada@example.org"}))
            holder = await asyncpg.connect(database_url)
            async with holder.transaction():
                await holder.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
                if what == "import":
                    waiting = client.post(IMPORTS, content=b"".join(RECORDS), headers=IMPORT_HEADERS)
                elif what == "batch":
                    waiting = client.post(f"{USERS}/batch/create", json=BATCH)
                elif what == "event":
                    waiting = client.post("/events", json=EVENT, headers=EVENT_HEADERS)
                elif what == "list":
                    waiting = client.get(USERS)
                else:
                    waiting = client.patch(path, json={"given_name": "Ada"})
                sending = asyncio.create_task(waiting)
                await eventually(lambda: waits_for_a_lock(database_url))
                status = await end(service)
                response = await sending
            await holder.close()

    expect_shutting_down(response)
    expect_quiet(service)
    assert status == 0


async def waits_for_a_lock(url: str) -> bool:
    """Asked in a connection of its own: a transaction sees the sessions as they were when it first looked."""
    connection = await asyncpg.connect(url)
    try:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
    finally:
        await connection.close()


async def test_a_slow_body_is_a_503(database_url: str, tmp_path: Path) -> None:
    with (
        serving(tmp_path, DATABASE_URL=database_url, SHUTDOWN_TIMEOUT="1") as service,
        connected(service) as connection,
    ):
        connection.sendall(head("POST", USERS, "Content-Type: application/json", "Content-Length: 100") + b"{")
        with service.client() as client:
            client.get("/api/health/live")
        status = await end(service)
        received = read_until_closed(connection)

    start, _, body = received.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 503 "), received
    assert b"retry-after: 1" in start
    assert b"connection: close" in start
    assert json.loads(body)["code"] == "shutting_down"
    expect_quiet(service)
    assert status == 0


@contextmanager
def connected(service: ServiceProcess) -> Iterator[socket.socket]:
    """A connection whose kernel holds little that its reader has not taken."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((host, int(port)))
        yield connection


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", f"X-API-Key: {API_KEY}", *lines, "", ""]).encode()


async def fill(service: ServiceProcess) -> None:
    """More users than the buffers between a server and a reader hold: about 24 MB."""
    preferences = {f"key{number}": "x" * 100 for number in range(100)}
    lines = [json.dumps({"email": f"u{number}@example.org", "preferences": preferences}) for number in range(2000)]
    async with service.async_client() as client:
        response = await client.post(IMPORTS, content="\n".join(lines).encode(), headers=IMPORT_HEADERS)
    assert (response.status_code, response.json()["created"]) == (202, 2000)


@pytest.mark.parametrize("fault", ["stop", "session ended"])
async def test_an_export_that_is_cut_logs_one_line_and_does_not_look_whole(
    database_url: str, tmp_path: Path, fault: str
) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, SHUTDOWN_TIMEOUT="1", LOG_FORMAT="json") as service:
        await fill(service)
        with connected(service) as connection:
            connection.sendall(head("GET", f"{USERS}/export", "Connection: close"))
            received = await asyncio.to_thread(connection.recv, 1000)
            if fault == "stop":
                await end(service)
            else:
                await end_sessions(database_url)
            received += await asyncio.to_thread(read_until_closed, connection)
        if fault != "stop":
            await end(service)

    lines = [line for line in service.read_log().splitlines() if "a response was cut" in line]
    assert received.startswith(b"HTTP/1.1 200 ")
    assert not received.endswith(b"0\r\n\r\n")
    assert [json.loads(line)["reason"] for line in lines] == [
        "shutting_down" if fault == "stop" else "database_unavailable"
    ]
    expect_quiet(service)


async def test_an_export_survives_a_pause_of_its_reader(database_url: str, tmp_path: Path) -> None:
    """docs/limits.md: a reader may take no data for 60 s. PostgreSQL's own limit for other transactions is 30 s."""
    with serving(tmp_path, DATABASE_URL=database_url) as service:
        await fill(service)
        with connected(service) as connection:
            connection.sendall(head("GET", f"{USERS}/export", "Connection: close"))
            received = await asyncio.to_thread(connection.recv, 1000)
            await asyncio.sleep(PAUSE_SECONDS)
            received += await asyncio.to_thread(read_until_closed, connection)

    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"0\r\n\r\n")
    assert received.count(b'"email"') == 2000
    expect_quiet(service)


async def end_sessions(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_an_export_that_can_not_begin_is_a_503(database_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, DATABASE_URL=database_url) as service:
        async with service.async_client() as client:
            await client.get(USERS)
            holder = await asyncpg.connect(database_url)
            async with holder.transaction():
                await holder.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
                response = await client.get(f"{USERS}/export")
            await holder.close()

    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json"), response.text
    assert (response.json()["code"], response.headers["retry-after"]) == ("database_unavailable", "1")
    expect_quiet(service)
