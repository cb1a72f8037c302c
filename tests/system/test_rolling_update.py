"""Rolling restarts under load, through the sequence of a cluster and without a cluster.

A pod that ends loses its endpoint after an uncontrolled while; at the same time it sleeps (preStop), and only
then gets SIGTERM. Twenty restarts like that must not cost a request, on fresh and on kept-alive connections. Without
the sleep they must, or the test would prove nothing. Times are a cluster's, divided by some 25.
"""

import asyncio
import base64
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from support.load_balancer import LoadBalancer
from support.ports import free_port

PODS = 3
RESTARTS = 20
SLEEP_SECONDS = 0.6
LONGEST_REMOVAL_SECONDS = 0.4
GRACE_SECONDS = 30
CLIENTS = 4
PAUSE_SECONDS = 0.01
API_KEY = "a-key-of-the-rolling-update-test"
COMMAND = [sys.executable, "-c", "import sys; from user_service.cli.main import main; sys.exit(main())", "serve"]


@dataclass
class Load:
    """What the clients saw."""

    acknowledged: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    names: Iterator[int] = field(default_factory=itertools.count)
    over: bool = False


class Pod:
    """One process of the service."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.port = free_port()
        self.log = folder / f"pod-{self.port}.log"
        self.environment = dict(os.environ) | {
            "DATABASE_URL": database_url,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "INTERNAL_API_KEY": API_KEY,
            "ENCRYPTION_KEY": "test:" + base64.b64encode(b"rolling-update-rolling-update-32").decode(),
            "POSTGRES_MAX_CONNECTIONS": "5",
            "DATA_DIR": str(folder),
            "LOG_FORMAT": "json",
        }

    async def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(*COMMAND, env=self.environment, stderr=log)
        request = "GET /api/health/ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        while True:
            assert self.process.returncode is None, self.log.read_text()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.write(request.encode())
            response = await reader.read()
            writer.close()
            if response.startswith(b"HTTP/1.1 200"):
                return
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        """SIGTERM, and the end by itself within the grace period."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(GRACE_SECONDS):
            assert await self.process.wait() == 0, self.log.read_text()[-2000:]

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


class Connection:
    """HTTP/1.1 without a retry: every reset and every early end is seen."""

    def __init__(self, port: int, *, keep_alive: bool) -> None:
        self.port, self.keep_alive = port, keep_alive
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, str]) -> int:
        # An end that came while nothing was asked is no failure: every client opens another connection then.
        if self.streams is not None and self.streams[0].at_eof():
            self.close()
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        content = json.dumps(body).encode()
        kept = "keep-alive" if self.keep_alive else "close"
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nConnection: {kept}\r\nX-API-Key: {API_KEY}\r\n"
        writer.write(
            f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(headers["content-length"]))
        if not self.keep_alive or headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1])

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def write_users(port: int, load: Load, *, keep_alive: bool) -> None:
    """Creates one user after another until the load is over; every request gets its answer."""
    connection = Connection(port, keep_alive=keep_alive)
    try:
        while not load.over:
            name = f"user-{next(load.names)}"
            try:
                status = await connection.post("/api/v1/users", {"external_id": name, "email": f"{name}@example.org"})
            except (OSError, asyncio.IncompleteReadError) as error:
                load.failures.append(f"{'kept' if keep_alive else 'fresh'} connection: {error!r}")
                connection.close()
            else:
                (load.acknowledged if status == 201 else load.failures).append(name if status == 201 else str(status))
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        connection.close()


async def replace_pod(balancer: LoadBalancer, old: Pod, new: Pod, *, sleep_seconds: float, removal: float) -> None:
    """maxSurge 1, maxUnavailable 0: the new one serves before the old one ends."""
    await new.start()
    balancer.endpoints.append(new.port)

    async def lose_endpoint() -> None:
        await asyncio.sleep(removal)
        balancer.endpoints.remove(old.port)

    async def terminate() -> None:
        await asyncio.sleep(sleep_seconds)
        await old.end()

    await asyncio.gather(lose_endpoint(), terminate())


async def kill_all(pods: list[Pod]) -> None:
    for pod in pods:
        await pod.kill()


@asynccontextmanager
async def deployment(database_url: str, folder: Path) -> AsyncIterator[tuple[LoadBalancer, list[Pod], Load]]:
    balancer, load = LoadBalancer(), Load()
    async with AsyncExitStack() as stack:
        port = await balancer.start()
        stack.push_async_callback(balancer.stop)
        pods = [Pod(database_url, folder) for _ in range(PODS)]
        stack.push_async_callback(kill_all, pods)
        for pod in pods:
            await pod.start()
        balancer.endpoints += [pod.port for pod in pods]
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(write_users(port, load, keep_alive=number % 2 == 0))
            try:
                yield balancer, pods, load
            finally:
                load.over = True


async def restart_all(database_url: str, folder: Path, *, sleep_seconds: float, until: Callable[[Load], bool]) -> Load:
    """Up to RESTARTS rolling restarts under load; ends early when `until` says so."""
    chance = random.Random(5)
    async with deployment(database_url, folder) as (balancer, pods, load):
        for _ in range(RESTARTS):
            old, new = pods.pop(0), Pod(database_url, folder)
            pods.append(new)
            removal = chance.uniform(0, LONGEST_REMOVAL_SECONDS)
            try:
                await replace_pod(balancer, old, new, sleep_seconds=sleep_seconds, removal=removal)
            finally:
                await old.kill()
            if until(load):
                break
    return load


async def stored(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url)
    try:
        return [row["external_id"] for row in await connection.fetch("SELECT external_id FROM users")]
    finally:
        await connection.close()


def test_twenty_rolling_restarts_cost_no_request(database_url: str, tmp_path: Path) -> None:
    load = asyncio.run(restart_all(database_url, tmp_path, sleep_seconds=SLEEP_SECONDS, until=lambda _: False))

    assert load.failures == []
    assert len(load.acknowledged) > RESTARTS
    assert sorted(asyncio.run(stored(database_url))) == sorted(load.acknowledged)


def test_restarts_without_the_sleep_lose_requests(database_url: str, tmp_path: Path) -> None:
    load = asyncio.run(restart_all(database_url, tmp_path, sleep_seconds=0, until=lambda load: bool(load.failures)))

    assert load.failures
