"""A load that records every acknowledged write, for faults in its middle."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from support.api import USERS, created_path
from support.application import Client
from support.waiting import PATIENCE_SECONDS, eventually

FRESH = {"Cache-Control": "no-cache"}
# A refused write may come again with its key, and meets the first one while that is still being processed.
EXPECTED = {200, 201, 207, 409, 503}
WRITERS = 24


class RecordedWrites:
    """Writers that create users and change them, each with an `Idempotency-Key`, and repeat what was not acknowledged.

    A fresh read follows each acknowledged write. `failures` has every response that a fault must not cause.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self.created: set[str] = set()
        # The acknowledged changes of each user, by path.
        self.changes: Counter[str] = Counter()
        self.stopping = False

    async def send(self, method: str, path: str, body: Any) -> httpx.Response:
        """The response that acknowledges the write."""
        headers = {"Idempotency-Key": uuid4().hex}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                response = await self.client.request(method, path, json=body, headers=headers)
                self.statuses[response.status_code] += 1
                if response.status_code not in EXPECTED:
                    self.failures.append(f"{method} {path}: {response.status_code} {response.text}")
                if response.is_success:
                    return response
                await asyncio.sleep(0.05)

    async def read(self, path: str, version: int) -> None:
        response = await self.client.get(path, headers=FRESH)
        is_right = response.status_code == 503 or (
            response.status_code == 200 and response.json()["version"] == version
        )
        if not is_right:
            self.failures.append(f"GET {path} at version {version}: {response.status_code} {response.text}")

    async def write(self) -> None:
        while not self.stopping:
            email = f"{uuid4().hex}@example.org"
            path = created_path(await self.send("POST", USERS, {"email": email}))
            self.created.add(email)
            for number in range(3):
                await self.send("PATCH", path, {"metadata": {"number": number}})
                self.changes[path] += 1
                await self.read(path, version=2 + number)
            emails = [f"{uuid4().hex}@example.org" for _ in range(5)]
            items = [{"data": {"email": email}} for email in emails]
            response = await self.send("POST", f"{USERS}/batch/create", {"items": items})
            if response.json()["summary"]["succeeded"] != len(items):
                self.failures.append(response.text)
            self.created.update(emails)

    @property
    def acknowledged(self) -> int:
        return len(self.created) + self.changes.total()

    async def go_on(self, number: int = 100) -> None:
        """Returns when so many further writes are acknowledged."""
        wanted = self.acknowledged + number

        async def has_gone_on() -> bool:
            return self.acknowledged >= wanted

        await eventually(has_gone_on)

    async def be_refused(self, number: int = 10) -> None:
        """Returns when so many further writes were answered with 503."""
        wanted = self.statuses[503] + number

        async def was_refused() -> bool:
            return self.statuses[503] >= wanted

        await eventually(was_refused)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                tasks.create_task(self.write())
            try:
                await self.go_on()
                yield
                await self.go_on()
            finally:
                self.stopping = True

    async def verify(self, url: str) -> None:
        """Asserts that the database of a URL has each acknowledged write once, and nothing else."""
        assert self.failures == []
        connection = await asyncpg.connect(url)
        rows = await connection.fetch("SELECT id, version FROM users")
        changes = await connection.fetchval("SELECT count(*) FROM user_changes")
        await connection.close()
        versions = {f"{USERS}/{row['id']}": row["version"] for row in rows}
        assert len(rows) == len(self.created)
        assert {path: versions.get(path) for path in self.changes} == {
            path: 1 + number for path, number in self.changes.items()
        }
        assert changes == self.acknowledged
