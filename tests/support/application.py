"""The application in the process of the tests, over a real PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, created_path
from support.servers import PostgresServer
from support.settings import API_KEY, make_settings
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.settings import Settings


class Client(httpx.AsyncClient):
    """Calls an application in this process, with a valid API key."""

    def __init__(self, application: Application, transport: httpx.ASGITransport | None = None) -> None:
        super().__init__(
            transport=transport or httpx.ASGITransport(application),
            base_url="http://users.test",
            headers={"X-API-Key": API_KEY},
        )
        self.application = application

    @property
    def resources(self) -> Resources:
        return self.application.resources

    async def make(self, **fields: Any) -> str:
        """The path of a new user."""
        response = await self.post(USERS, json={"email": f"{uuid4().hex}@example.org", **fields})
        assert response.status_code == 201, response.text
        return created_path(response)

    async def is_cached(self, path: str) -> bool:
        """Whether a read of this user is answered by the cache."""
        hits = self.resources.metrics.cache_hits
        before = sum(hits.values.values())
        await self.get(path)
        return sum(hits.values.values()) > before


@asynccontextmanager
async def started(application: Application, transport: httpx.ASGITransport | None = None) -> AsyncIterator[Client]:
    """Starts an application, loads its API, gives a client of it, and stops it."""
    await application.start()
    try:
        await application.api.get()
        async with Client(application, transport) as client:
            yield client
    finally:
        await application.stop()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Client]:
    """A client of a started application with these settings."""
    async with started(Application(Resources(settings))) as client:
        yield client


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return make_settings(database_url, tmp_path, access_log=True)


@pytest.fixture
def application(settings: Settings) -> Application:
    """Not started yet; `client` starts it."""
    return Application(Resources(settings))


@pytest.fixture
async def client(application: Application) -> AsyncIterator[Client]:
    """A client of a service with a database of the test's own."""
    async with started(application) as client:
        yield client


@pytest.fixture(scope="session")
def shared_database_url(postgres: PostgresServer, migrated_template: str) -> Iterator[str]:
    yield postgres.create_database("shared", template=migrated_template)
    postgres.drop_database("shared")


@pytest.fixture(scope="session")
async def shared_client(
    anyio_backend: str, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Client]:
    """A client for tests that work beside other users in the database and leave none that disturb other tests."""
    folder = tmp_path_factory.mktemp("shared")
    async with running(make_settings(shared_database_url, folder, access_log=True)) as client:
        yield client
