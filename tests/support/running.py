"""The service as tests run it: in this process, or as a command in a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.settings import Settings

USERS = "/api/v1/users"
API_KEY = "a-key-for-the-running-service-51c0"
ENCRYPTION_KEY = "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
OTHER_ENCRYPTION_KEY = "k2:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
# How long a test waits for what must come; far beyond what it takes.
PATIENCE_SECONDS = 60.0


def settings_of(database_url: str | None, data_dir: Path, **others: Any) -> Settings:
    given = {"encryption_key": ENCRYPTION_KEY, "internal_api_key": (API_KEY,), "access_log": False, **others}
    return Settings(database_url=database_url, data_dir=data_dir, **given)


class Client(httpx.AsyncClient):
    """Speaks to an application in this process, with a valid key."""

    def __init__(self, application: Application) -> None:
        transport = httpx.ASGITransport(application)
        super().__init__(transport=transport, base_url="http://users.test", headers={"X-API-Key": API_KEY})
        self.application = application

    @property
    def resources(self) -> Resources:
        return self.application.resources

    async def make(self, **fields: Any) -> str:
        """The path of a new user."""
        answer = await self.post(USERS, json={"email": f"{uuid4().hex}@example.org", **fields})
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    async def is_cached(self, path: str) -> bool:
        """Whether a read of this user is answered by the cache."""
        hits = self.resources.metrics.cache_hits
        before = sum(hits.values.values())
        await self.get(path)
        return sum(hits.values.values()) > before


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Client]:
    """A started application, its API loaded, and a client of it."""
    application = Application(Resources(settings))
    await application.start()
    try:
        await application.api.get()
        async with Client(application) as client:
            yield client
    finally:
        await application.stop()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        met = await condition()
        while not met:
            await asyncio.sleep(0.05)
            met = await condition()


class ServiceProcess:
    """`user-service serve` in a process of its own; what it logs is in `log`."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.log = folder / f"service-{uuid4().hex[:8]}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "user_service.cli.main", "serve"],
                env=command_environ(folder, {"HOST": "127.0.0.1", "PORT": "0", **environ}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """The log's lines; each has to be JSON."""
        return [json.loads(line) for line in self.said().splitlines()]

    def wait_for(self, text: str) -> str:
        """The rest of the first line that holds this text."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        return self.said().partition(text)[2].partition("\n")[0]

    @property
    def url(self) -> str:
        return "http://127.0.0.1:" + self.wait_for("running on http://127.0.0.1:").split()[0]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": API_KEY}, timeout=PATIENCE_SECONDS)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Stops it as an operator does; gives the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def serving(folder: Path, **environ: str) -> Iterator[ServiceProcess]:
    service = ServiceProcess(folder, environ)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.signal(signal.SIGCONT)
            service.end()


def command_environ(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    own = {"DATA_DIR": str(folder / "data"), "ENCRYPTION_KEY": ENCRYPTION_KEY, "INTERNAL_API_KEY": API_KEY}
    return {**kept, **own, **given}


def command(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `user-service` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "user_service.cli.main", *arguments],
        env=command_environ(folder, environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
