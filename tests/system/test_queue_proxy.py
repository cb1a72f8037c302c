"""Behind Knative's queue-proxy: no event is lost, neither under load nor while a pod stops."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from support.ports import free_port
from support.process import serving
from support.queue_proxy import find_queue_proxy, queue_proxy
from support.settings import API_KEY

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(find_queue_proxy() is None, reason="QUEUE_PROXY names no queue-proxy, and none is on PATH"),
]
HEADERS = {"content-type": "application/cloudevents+json", "x-api-key": API_KEY}


def creation(name: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": name,
        "source": "/queue",
        "type": "org.userservice.batch.create.v1",
        "data": {"items": [{"data": {"email": f"{name}@example.org"}}]},
    }


async def send(client: httpx.AsyncClient, name: str) -> int:
    response = await client.post("/events", content=orjson.dumps(creation(name)), headers=HEADERS)
    return response.status_code


async def count_users(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM users")
    finally:
        await connection.close()
    return count


async def test_200_events_at_once_over_a_concurrency_of_4_and_a_stop_under_load_lose_none(
    database_url: str, tmp_path: Path
) -> None:
    program = find_queue_proxy()
    assert program is not None
    environ = {"DATABASE_URL": database_url, "SERVE": "events", "ACCESS_LOG": "false"}
    with serving(tmp_path, **environ) as service:
        user_port = int((await asyncio.to_thread(lambda: service.url)).rpartition(":")[2])
        with queue_proxy(program, tmp_path, port=free_port(), user_port=user_port, concurrency=4) as proxy:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=proxy.url, timeout=60, limits=limits) as client:
                # The queue holds ten times the concurrency; what comes beyond gets 503, which a broker retries.
                first = [f"burst-{number}" for number in range(200)]
                waiting, refused = first, 0
                while waiting:
                    statuses = await asyncio.gather(*(send(client, name) for name in waiting))
                    assert set(statuses) <= {200, 503}, statuses
                    waiting = [name for name, status in zip(waiting, statuses, strict=True) if status == 503]
                    refused += len(waiting)
                assert await count_users(database_url) == 200

                stopping = asyncio.create_task(asyncio.to_thread(proxy.wait_for_drain))
                proxy.process.send_signal(signal.SIGTERM)
                # Routes take a moment to change, so that requests go on coming.
                late = [await send(client, f"late-{number}") for number in range(100)]
                assert late == [200] * 100
                assert await stopping == 200
        assert await asyncio.to_thread(service.stop) == 0
    assert await count_users(database_url) == 300
