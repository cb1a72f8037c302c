"""The application over a real PostgreSQL, as a client meets it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.servers import PostgresServer
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.settings import Settings

API_KEY = "an-internal-key-of-the-tests-7d1f"
OTHER_KEY = "the-key-that-comes-after-it-93ab"
ENCRYPTION_KEY = "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

Running = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Starts and stops an application as a server does."""
    wishes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(application({"type": "lifespan"}, wishes.get, answers.put))
    await wishes.put({"type": "lifespan.startup"})
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await wishes.put({"type": "lifespan.shutdown"})
        assert (await answers.get())["type"] == "lifespan.shutdown.complete"
        await life


@asynccontextmanager
async def client_of(
    application: Application, transport: httpx.ASGITransport | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a valid key, in this process."""
    transport = transport or httpx.ASGITransport(application)
    async with (
        lifespan(application),
        httpx.AsyncClient(transport=transport, base_url="http://users.test", headers={"X-API-Key": API_KEY}) as client,
    ):
        yield client


def settings_for(database_url: str, data_dir: Path, **others: Any) -> Settings:
    return Settings(
        database_url=database_url,
        data_dir=data_dir,
        encryption_key=ENCRYPTION_KEY,
        internal_api_key=(API_KEY, OTHER_KEY),
        **others,
    )


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return settings_for(database_url, tmp_path)


@pytest.fixture
def application(settings: Settings) -> Application:
    """Not started yet; `client` starts it."""
    return Application(Resources(settings))


@pytest.fixture
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with a database of the test's own."""
    async with client_of(application) as client:
        yield client


@pytest.fixture(scope="session")
def shared_database_url(postgres: PostgresServer, migrated_template: str) -> Iterator[str]:
    yield postgres.create_database("shared", template=migrated_template)
    postgres.drop_database("shared")


@pytest.fixture(scope="session")
async def shared_client(
    anyio_backend: str, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """A client for tests that don't mind other users in the database, and leave none that others would mind."""
    settings = settings_for(shared_database_url, tmp_path_factory.mktemp("shared"))
    async with client_of(Application(Resources(settings))) as client:
        yield client
