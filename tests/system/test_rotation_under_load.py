"""Keys are changed from the first step to the last while two replicas are asked all the time: no request fails."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx

from support.api import USERS
from support.process import ServiceProcess, command, serving
from support.secret_files import SecretFolder
from support.settings import ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY, make_environ
from support.tokens_kept import key_ids, meta
from support.waiting import PATIENCE_SECONDS, eventually

K1, K2 = ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY
OLD_API_KEY, NEW_API_KEY = "the-api-key-that-goes-4c1d", "the-api-key-that-comes-9e2b"
SEEDED = 600
QUICK = {"SECRETS_RELOAD_SECONDS": "1", "REQUEST_TIMEOUT": "10"}


class Replica:
    """A service process with a folder of secrets of its own, as a pod has one."""

    def __init__(self, service: ServiceProcess, secrets: SecretFolder) -> None:
        self.service, self.secrets = service, secrets
        self.http = httpx.AsyncClient(
            base_url=service.url, headers={"X-API-Key": OLD_API_KEY}, timeout=PATIENCE_SECONDS
        )

    async def applied(self) -> float:
        lines = (await self.http.get("/metrics")).text.splitlines()
        counts = [line.split()[1] for line in lines if line.startswith('user_secrets_reload_total{outcome="applied"}')]
        return float(counts[0]) if counts else 0.0

    async def swap(self, **secrets: str) -> None:
        before = await self.applied()
        self.secrets.swap(**secrets)

        async def is_applied() -> bool:
            return await self.applied() > before

        await eventually(is_applied)


class Load:
    """Requests of every kind to all replicas, until it is stopped; what was not answered with 2xx is kept."""

    def __init__(self, replicas: list[Replica], paths: list[str]) -> None:
        self.replicas, self.paths = replicas, paths
        self.failures: list[str] = []
        self.answered = 0
        self.stopping = False
        self.kinds = (self.read, self.read_past_the_cache, self.write, self.write_batches, self.list)
        self.rounds: Counter[Callable[[], Awaitable[None]]] = Counter()

    async def ask(self, method: str, path: str, **options: object) -> httpx.Response:
        response = await random.choice(self.replicas).http.request(method, path, **options)  # type: ignore[arg-type]
        self.answered += 1
        if not response.is_success:
            self.failures.append(f"{method} {path}: {response.status_code} {response.text}")
        return response

    async def read(self) -> None:
        await self.ask("GET", random.choice(self.paths))

    async def read_past_the_cache(self) -> None:
        await self.ask("GET", random.choice(self.paths), headers={"Cache-Control": "no-cache"})

    async def write(self) -> None:
        body = {"given_name": f"Ada {uuid4().hex[:6]}"}
        await self.ask("PATCH", random.choice(self.paths), json=body, headers={"Idempotency-Key": uuid4().hex})

    async def write_batches(self) -> None:
        items = [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(20)]
        # Idempotency keys belong to a principal: the repetition must come under the API key of the first.
        headers = {"Idempotency-Key": uuid4().hex, "X-API-Key": self.replicas[0].http.headers["X-API-Key"]}
        first = await self.ask("POST", f"{USERS}/batch/create", json={"items": items}, headers=headers)
        again = await self.ask("POST", f"{USERS}/batch/create", json={"items": items}, headers=headers)
        assert again.content == first.content

    async def list(self) -> None:
        await self.ask("GET", USERS, params={"limit": 50, "sort": "-created_at"})
        await self.ask("GET", USERS, params={"email": f"{random.randrange(SEEDED)}@example.org"})

    async def repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self.stopping:
            await work()
            self.rounds[work] += 1
            await asyncio.sleep(0.02)

    async def next_round(self) -> None:
        """Waits until what is being asked now has been answered."""
        before = dict(self.rounds)

        async def is_over() -> bool:
            return all(self.rounds[work] > before.get(work, 0) for work in self.kinds)

        await eventually(is_over)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for kind in self.kinds:
                tasks.create_task(self.repeat(kind))
            try:
                yield
            finally:
                self.stopping = True

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.http.aclose()


async def seed(replica: Replica) -> list[str]:
    items = [{"data": {"email": f"{number}@example.org", "given_name": "Ada"}} for number in range(SEEDED)]
    made = await replica.http.post(f"{USERS}/batch/create", json={"items": items})
    assert made.status_code == 200, made.text
    return [f"{USERS}/{item['id']}" for item in made.json()["items"]]


async def reencrypt_and_be_killed(folder: Path, environ: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "user_service.cli.main", "reencrypt", "--batch-size", "5"),
        env=make_environ(folder, environ),
    )
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), random.uniform(0.5, 3.0))
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def test_a_rotation_from_the_first_step_to_the_last_fails_no_request(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    shared = {"DATABASE_URL": database_url, **QUICK}
    secrets = [
        SecretFolder(tmp_path / name, ENCRYPTION_KEY=K1, INTERNAL_API_KEY=OLD_API_KEY) for name in ("one", "two")
    ]
    environs = [{**shared, **folder.environ} for folder in secrets]
    redis = {"REDIS_URL": redis_url}
    with serving(tmp_path, **environs[0], **redis) as first, serving(tmp_path, **environs[1], **redis) as second:
        replicas = [Replica(first, secrets[0]), Replica(second, secrets[1])]
        paths = await seed(replicas[0])
        load = Load(replicas, paths)

        async def swap(**changed: str) -> None:
            for replica in replicas:
                await replica.swap(**changed)

        async with load.running():
            await swap(ENCRYPTION_KEY=f"{K1},{K2}")
            await swap(ENCRYPTION_KEY=f"{K2},{K1}")
            await reencrypt_and_be_killed(tmp_path, environs[0])
            done = await asyncio.to_thread(command, tmp_path, "reencrypt", "--batch-size", "50", **environs[0])
            printed = await asyncio.to_thread(command, tmp_path, "keys", "blind-index", **environs[0])
            await swap(BLIND_INDEX_KEY=printed.stdout.strip())
            await swap(ENCRYPTION_KEY=K2)
            await swap(INTERNAL_API_KEY=f"{OLD_API_KEY},{NEW_API_KEY}")
            for replica in replicas:
                replica.http.headers["X-API-Key"] = NEW_API_KEY
            await load.next_round()
            await swap(INTERNAL_API_KEY=NEW_API_KEY)
            await load.next_round()
        with_the_old_key = [await replica.http.get(USERS, headers={"X-API-Key": OLD_API_KEY}) for replica in replicas]
        await load.close()

    assert load.failures == []
    assert load.answered > 100
    assert done.returncode == 0, done.stderr
    assert "The key k1 can now be removed" in done.stdout
    assert [response.status_code for response in with_the_old_key] == [401, 401]
    assert set(await key_ids(database_url)) == {"k2"}
    assert "encryption-key:k1" not in await meta(database_url)
    with serving(tmp_path, **environs[1]) as alone, alone.client() as client:
        client.headers["X-API-Key"] = NEW_API_KEY
        for path in paths[::50]:
            assert client.get(path, headers={"Cache-Control": "no-cache"}).status_code == 200
        assert client.get(USERS, params={"email": "5@example.org"}).json()["items"]
        assert len(client.get(USERS, params={"q": "ada", "limit": 200}).json()["items"]) == 200
    for said in (first.read_log(), second.read_log()):
        assert not any(text in said for text in (K1[3:], K2[3:], OLD_API_KEY, NEW_API_KEY))
