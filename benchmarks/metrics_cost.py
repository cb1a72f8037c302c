"""`python -m benchmarks.metrics_cost`: what counting adds to a cached read, both timed side by side in this process.

The read is a whole call of the ASGI application; the counting is what the read does for metrics, by itself, in a loop.
Needs DATABASE_URL: a migrated database.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from time import perf_counter
from typing import Any, Final
from uuid import uuid4

import orjson

from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.observability.metrics import Metrics
from user_service.settings import Settings

READS: Final = 10_000
ROUNDS: Final = 15
KEY: Final = "a-key-of-this-benchmark-4f0c"
ROUTE: Final = "/api/v1/users/{user_id}"
Message = MutableMapping[str, Any]


class Client:
    """Calls the application as a server does, without one."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.body = b""
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        return {"type": "http.request", "body": self.body}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def drop(self, message: Message) -> None: ...

    async def make_user(self) -> str:
        """The path of a new user."""
        self.body = orjson.dumps({"email": f"{uuid4().hex}@example.org"})
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body)).encode())]
        await self.application(make_scope("POST", "/api/v1/users", head), self.receive, self.send)
        return f"/api/v1/users/{orjson.loads(self.sent[1]['body'])['id']}"

    async def read(self, path: str) -> float:
        """Seconds that a read takes, over many."""
        scope = make_scope("GET", path, [(b"host", b"localhost"), (b"user-agent", b"benchmark")])
        started = perf_counter()
        for _ in range(READS):
            await self.application(scope, self.receive, self.drop)
        return (perf_counter() - started) / READS


def make_scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Message:
    key = (b"x-api-key", KEY.encode())
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [*headers, key],
        "client": None,
        "server": None,
    }


def measure_seconds(work: Callable[[], None]) -> float:
    started = perf_counter()
    for _ in range(READS):
        work()
    return (perf_counter() - started) / READS


def counting(metrics: Metrics) -> Callable[[], None]:
    """What one cached read does for the metrics. Requests in flight are counted all the same, to shed load."""
    requests, hits, tier = metrics.requests, metrics.cache_hits.begin("memory"), ("memory",)

    def count() -> None:
        started = perf_counter()
        hits[tier] += 1
        requests.observe("GET", ROUTE, 200, perf_counter() - started)

    return count


def nothing() -> None: ...


async def measure(settings: Settings) -> None:
    application = Application(Resources(settings))
    await application.start()
    client = Client(application)
    path = await client.make_user()
    count = counting(Metrics())
    reads, counts = [], []
    for _ in range(ROUNDS):
        reads.append(await client.read(path))
        counts.append(measure_seconds(count) - measure_seconds(nothing))
    await application.stop()
    read, counted = statistics.median(reads), statistics.median(counts)
    sys.stdout.write(f"a cached read {read * 1e6:.2f} us, of which counting {counted * 1e6:.2f} us: ")
    sys.stdout.write(f"{counted / read:.1%}; a server and a connection come on top of the read\n")


if __name__ == "__main__":
    environ = {**os.environ, "INTERNAL_API_KEY": KEY, "ACCESS_LOG": "false"}
    asyncio.run(measure(replace(Settings.load(environ), redis_url=None)))
