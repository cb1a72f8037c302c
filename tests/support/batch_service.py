"""The application as tests of batches run it: in this process, over a real PostgreSQL that they look into."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from support.api import USERS
from support.application import Client, started
from support.settings import make_settings
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.web.bulkhead import Bulkhead


class BatchService:
    def __init__(self, client: Client, database: asyncpg.Pool) -> None:
        self.client, self.database = client, database

    async def batch(self, verb: str, items: Sequence[Any], *, key: str | None = None, **body: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key is not None else {}
        return await self.client.post(f"{USERS}/batch/{verb}", json={**body, "items": items}, headers=headers)

    async def make(self, count: int, **fields: Any) -> list[str]:
        """The ids of new users."""
        response = await self.batch("create", [creation(**fields) for _ in range(count)])
        assert response.status_code == 200, response.text
        return [item["id"] for item in response.json()["items"]]

    async def user(self, user_id: str, **headers: str) -> Any:
        return (await self.client.get(f"{USERS}/{user_id}", headers=headers)).json()

    async def count(self, table: str) -> int:
        return int(await self.database.fetchval(f"SELECT count(*) FROM {table}"))

    async def wait_for_lock_waiters(self, *, count: int = 1) -> None:
        """Returns when so many transactions wait for a lock."""
        waiting = 0
        while waiting < count:
            await asyncio.sleep(0.01)
            waiting = await self.count("pg_locks WHERE NOT granted")

    async def read_changes(self, user_id: str) -> list[tuple[Any, ...]]:
        """Versions and types of the changes of a user."""
        rows = await self.database.fetch(
            "SELECT version, type FROM user_changes WHERE user_id = $1 ORDER BY version", user_id
        )
        return [tuple(row) for row in rows]


def creation(**fields: Any) -> dict[str, Any]:
    return {"data": {"email": f"{uuid4().hex}@example.org", **fields}}


def outcomes(response: httpx.Response) -> list[str]:
    """Each item's status, or its error's code."""
    items = response.json()["items"]
    return [item["error"]["code"] if item["status"] == "failed" else item["status"] for item in items]


@asynccontextmanager
async def batch_service(
    database_url: str, data_dir: Path, *, bulkhead: Bulkhead | None = None, **others: Any
) -> AsyncIterator[BatchService]:
    resources = Resources(make_settings(database_url, data_dir, **others))
    application = Application(resources, bulkhead=bulkhead)
    async with (
        started(application) as client,
        asyncpg.create_pool(database_url, min_size=1, max_size=2) as database,
    ):
        yield BatchService(client, database)


@pytest.fixture
async def service(database_url: str, tmp_path: Path) -> AsyncIterator[BatchService]:
    """A service over a database of the test's own, and what its database says."""
    async with batch_service(database_url, tmp_path) as service:
        yield service
