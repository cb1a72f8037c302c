"""Large bodies, of which a replica works on a few at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from support.api import USERS
from support.batch_service import BatchService, batch_service, creation
from user_service.events.types import PING
from user_service.web.bulkhead import LARGE_BODIES_AT_ONCE, Bulkhead
from user_service.web.routing import SMALL_BODY_BYTES

pytestmark = pytest.mark.anyio
JSON = {"Content-Type": "application/json"}
PING_HEADERS = {**JSON, "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/cron", "ce-type": PING}
LARGE = SMALL_BODY_BYTES + 1


def padded(items: list[dict[str, Any]]) -> bytes:
    return orjson.dumps({"items": items}).ljust(LARGE)


async def large(service: BatchService, verb: str, items: list[dict[str, Any]]) -> httpx.Response:
    return await service.client.post(f"{USERS}/batch/{verb}", content=padded(items), headers=JSON)


@pytest.fixture
async def hasty_service(database_url: str, tmp_path: Path) -> AsyncIterator[BatchService]:
    """A service whose bulkhead refuses after a tenth of a second."""
    async with batch_service(database_url, tmp_path, bulkhead=Bulkhead(seconds=0.1)) as service:
        yield service


@asynccontextmanager
async def full(service: BatchService, user_id: str) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """As many large batches as there is room for, all of which wait for this user until the block ends."""
    change = {"id": user_id, "data": {"given_name": "Ada"}}
    async with service.database.acquire() as connection, connection.transaction():
        await connection.fetchval("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", user_id)
        waiting = [asyncio.create_task(large(service, "update", [change])) for _ in range(LARGE_BODIES_AT_ONCE)]
        await service.wait_for_lock_waiters(count=LARGE_BODIES_AT_ONCE)
        yield waiting
    assert {(await task).status_code for task in waiting} == {200}


async def test_what_is_small_passes_by(service: BatchService) -> None:
    (held,) = await service.make(1)
    async with full(service, held):
        keys = orjson.dumps({"ids": [held]}).ljust(LARGE)
        found = await service.client.post(f"{USERS}/batch/find", content=keys, headers=JSON)
        made = await service.client.post(USERS, json={"email": "grace@example.org"})
        batch = await service.batch("create", [creation()])
    assert (len(found.json()["found"]), made.status_code, batch.status_code) == (1, 201, 200)


async def test_another_large_body_waits_until_a_place_is_free(service: BatchService) -> None:
    (held,) = await service.make(1)
    async with full(service, held):
        fourth = asyncio.create_task(large(service, "create", [creation()]))
        await asyncio.wait([fourth], timeout=0.3)
        waited = not fourth.done()
        running = [job for job in service.client.application.resources.jobs.jobs if job.state == "running"]
    assert waited
    assert len(running) == LARGE_BODIES_AT_ONCE
    assert (await fourth).status_code == 200


async def test_waiting_is_bounded_and_no_place_gets_lost(hasty_service: BatchService) -> None:
    (held,) = await hasty_service.make(1)
    async with full(hasty_service, held):
        refused = await large(hasty_service, "create", [creation()])
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    async with full(hasty_service, held):
        assert (await large(hasty_service, "create", [creation()])).status_code == 503
    assert (await large(hasty_service, "create", [creation()])).status_code == 200


async def test_a_large_event_takes_a_place_and_a_small_one_none(hasty_service: BatchService) -> None:
    (held,) = await hasty_service.make(1)
    async with full(hasty_service, held):
        refused = await hasty_service.client.post("/events", content=b"{}".ljust(LARGE), headers=PING_HEADERS)
        taken = await hasty_service.client.post("/events", content=b"{}".ljust(SMALL_BODY_BYTES), headers=PING_HEADERS)
    assert (refused.status_code, taken.status_code) == (503, 204)


async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_place_taken(service: BatchService) -> None:
    (held,) = await service.make(1)
    async with full(service, held):
        impatient = asyncio.create_task(large(service, "create", [creation()]))
        await asyncio.wait([impatient], timeout=0.2)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
    assert impatient.cancelled()
    async with full(service, held):
        pass


async def test_a_request_that_does_not_send_its_body_takes_no_place(service: BatchService) -> None:
    reading = asyncio.Semaphore(0)

    async def halves() -> AsyncIterator[bytes]:
        yield b"{" + b" " * LARGE
        reading.release()
        await asyncio.Event().wait()

    senders = [
        asyncio.create_task(service.client.post(path, content=halves(), headers=PING_HEADERS))
        for path in ("/events", f"{USERS}/batch/create")
        for _ in range(LARGE_BODIES_AT_ONCE)
    ]
    for _ in senders:
        await reading.acquire()
    assert not any(sender.done() for sender in senders)
    response = await large(service, "create", [creation()])
    for sender in senders:
        sender.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    assert response.status_code == 200
