"""Many users, stored by the service's own rules and repository, without a request for each."""

import asyncio
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from benchmarks.people import person
from benchmarks.servers import Bench, service_env
from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.keyring import Keyring, load_keys
from user_service.settings import Settings
from user_service.users.change_log import Origin
from user_service.users.repository import UserRepository
from user_service.users.schemas import UserCreate
from user_service.users.service import UserService

BATCH = 1_000
WRITERS = 3  # while one waits for PostgreSQL, the next encrypts


def preload(bench: Bench, count: int) -> None:
    """Fills the database up to `count` users at least, and gathers its statistics without waiting for autovacuum."""
    keys = load_keys(Settings.load(service_env(bench, 0)))
    asyncio.run(fill(bench.database_url, keys, count))


async def fill(database_url: str, keys: Keyring, count: int) -> None:
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        # Numbered from what is there, so that a second filling takes no e-mail of the first.
        starts = iter(range(await present(engine), count, BATCH))
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(write(engine, keys, starts))
        await analyze(engine)
    finally:
        await engine.dispose()


async def present(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM users"))).scalar_one())


async def write(engine: AsyncEngine, keys: Keyring, starts: Iterator[int]) -> None:
    """Batches from `starts`, which the writers share, until none is left."""
    for start in starts:
        bodies = [UserCreate(**person(number, series="list")) for number in range(start, start + BATCH)]
        async with AsyncSession(engine) as session, session.begin():
            repository = UserRepository(session, keys.cipher, BlindIndex(keys.blind_index))
            for outcome in await UserService(repository, Origin("benchmark", "preload", "")).create(bodies):
                outcome.unwrap()


async def analyze(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE"))
