"""Three processes of the service on one PostgreSQL and one Redis, under random writes and while Redis is torn at.

Promised is: what was acknowledged is seen by the replica that acknowledged it at once, and by every other within five
seconds, whatever happens to Redis. How old reads really were is printed: `pytest -s`.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import monotonic
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, created_path
from support.process import ServiceProcess, serving
from support.servers import RedisServer

REPLICAS = 3
USERS_UNDER_TEST = 8
SECONDS = 16.0
PROMISED_SECONDS = 5.0


@dataclass
class User:
    """A user and what writers were told: when, which version, and by which replica."""

    path: str
    acknowledged: list[tuple[float, int, int]] = field(default_factory=list)

    def staleness(self, version: int, asked_at: float) -> float:
        """How long ago, seen from a question, something newer than its answer had been acknowledged; 0 for never."""
        newer = [at for at, acknowledged, _ in self.acknowledged if acknowledged > version and at < asked_at]
        return asked_at - min(newer) if newer else 0.0

    def find_newest(self, replica: int, asked_at: float) -> int:
        """The newest version that a replica itself had acknowledged before a question."""
        return max((version for at, version, by in self.acknowledged if by == replica and at < asked_at), default=0)


@dataclass
class Seen:
    """What the readers saw: seconds for each read."""

    staleness: list[float] = field(default_factory=list)
    too_old: list[str] = field(default_factory=list)
    own_writes_missed: list[str] = field(default_factory=list)

    def at(self, share: float) -> float:
        return sorted(self.staleness)[int(share * (len(self.staleness) - 1))]


def test_staleness_is_reckoned_from_the_oldest_newer_version() -> None:
    user = User("", [(1.0, 2, 0), (3.0, 3, 1), (9.0, 4, 2)])

    assert [user.staleness(version, 8.0) for version in (1, 2, 3, 4)] == [7.0, 5.0, 0.0, 0.0]
    assert [user.find_newest(replica, 8.0) for replica in (0, 1, 2)] == [2, 3, 0]


async def write(clients: list[httpx.AsyncClient], users: list[User], random: Random, end: float) -> None:
    while monotonic() < end:
        user, replica = random.choice(users), random.randrange(REPLICAS)
        response = await clients[replica].patch(user.path, json={"metadata": {"by": random.random()}})
        assert response.status_code in {200, 503}, response.text
        if response.status_code == 200:
            user.acknowledged.append((monotonic(), response.json()["version"], replica))
        await asyncio.sleep(random.expovariate(20))


async def read(
    clients: list[httpx.AsyncClient], users: list[User], random: Random, end: float, seen: Seen, replica: int
) -> None:
    while monotonic() < end:
        user, asked_at = random.choice(users), monotonic()
        response = await clients[replica].get(user.path)
        assert response.status_code == 200, response.text
        version = response.json()["version"]
        staleness = user.staleness(version, asked_at)
        seen.staleness.append(staleness)
        if staleness > PROMISED_SECONDS:
            seen.too_old.append(f"replica {replica}: version {version}, {staleness:.3f} s too late")
        if version < user.find_newest(replica, asked_at):
            seen.own_writes_missed.append(f"replica {replica}: version {version}")
        await asyncio.sleep(0)


async def leave_alone(redis: RedisServer, services: list[ServiceProcess], random: Random) -> None:
    """Nothing happens."""


async def tear(redis: RedisServer, services: list[ServiceProcess], random: Random) -> None:
    """Kills and restarts Redis, pauses it, and cuts the subscriptions, over and over."""

    async def restart() -> None:
        redis.stop()
        await asyncio.sleep(random.uniform(0.1, 1))
        redis.start()

    async def pause() -> None:
        redis.pause()
        await asyncio.sleep(random.uniform(0.1, 2.5))
        redis.resume()

    async def cut() -> None:
        for _ in range(5):
            redis.command("CLIENT KILL TYPE pubsub")
            await asyncio.sleep(0.1)

    while True:
        for disturb in random.sample([restart, pause, cut], 3):
            await disturb()
            await asyncio.sleep(random.uniform(0.5, 1.5))


Disturb = Callable[[RedisServer, list[ServiceProcess], Random], "asyncio.Future[None]"]


@pytest.mark.parametrize("disturb", [leave_alone, tear])
async def test_no_replica_reads_what_is_older_than_is_promised(
    database_url: str, own_redis: RedisServer, tmp_path: Path, disturb: Disturb, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": own_redis.url, "ACCESS_LOG": "false"}
    random, seen = Random(7), Seen()
    with ExitStack() as stack:
        services = [stack.enter_context(serving(tmp_path, **environ)) for _ in range(REPLICAS)]
        key = {"X-API-Key": services[0].client().headers["X-API-Key"]}
        clients = [httpx.AsyncClient(base_url=service.url, headers=key, timeout=60) for service in services]
        created = [
            await clients[0].post(USERS, json={"email": f"{uuid4().hex}@example.org"}) for _ in range(USERS_UNDER_TEST)
        ]
        users = [User(created_path(response)) for response in created]
        end = monotonic() + SECONDS
        disturbing = asyncio.ensure_future(disturb(own_redis, services, random))
        await asyncio.gather(
            *(write(clients, users, Random(seed), end) for seed in range(3)),
            *(read(clients, users, Random(10 + seed), end, seen, seed % REPLICAS) for seed in range(2 * REPLICAS)),
        )
        disturbing.cancel()
        await asyncio.wait([disturbing])
        if own_redis.process is not None:
            own_redis.resume()
        for client in clients:
            await client.aclose()

    with capsys.disabled():
        sys.stdout.write(
            f"\n{disturb.__name__}: {len(seen.staleness):,} reads and "
            f"{sum(len(user.acknowledged) for user in users):,} writes; seconds behind the writes: "
            f"p99 {seen.at(0.99):.3f}, p99.9 {seen.at(0.999):.3f}, max {seen.at(1):.3f}\n"
        )
    assert len(seen.staleness) > 100
    assert seen.own_writes_missed == []
    assert seen.too_old == []
