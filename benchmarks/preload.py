"""Many users, stored by the service's own rules and repository, without a request for each."""

import asyncio
from collections.abc import Iterator

import asyncpg

from benchmarks.people import person
from benchmarks.servers import Bench, service_env
from user_service.encryption.blind_index import BlindIndex
from user_service.encryption.keyring import Keyring, load_keys
from user_service.observability.metrics import Metrics
from user_service.postgres.connector import Connector
from user_service.postgres.database import BEGIN, Database
from user_service.postgres.pool import connect_options
from user_service.postgres.statements import text
from user_service.settings import Settings
from user_service.users.change_log import Origin
from user_service.users.repository import UserRepository
from user_service.users.schemas import UserCreate
from user_service.users.service import UserService

BATCH = 1_000
COUNT = text("SELECT count(*) FROM users")
WRITERS = 3  # while one waits for PostgreSQL, the next encrypts


def preload(bench: Bench, count: int) -> None:
    """Fills the database up to `count` users at least, and gathers its statistics without waiting for autovacuum."""
    keys = load_keys(Settings.load(service_env(bench, 0)))
    asyncio.run(fill(bench.database_url, keys, count))


async def fill(database_url: str, keys: Keyring, count: int) -> None:
    metrics = Metrics()
    settings = Settings(database_url=database_url)
    connector = Connector(lambda: connect_options(settings), metrics)
    database = Database(connector, metrics, size=WRITERS, seconds=settings.database_timeout)
    # Numbered from what is there, so that a second filling takes no e-mail of the first.
    starts = iter(range(await present(database), count, BATCH))
    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(write(database, keys, starts))
    await database.close()
    await connector.close()
    await analyze(database_url)


async def present(database: Database) -> int:
    async with database.session() as session:
        return int((await session.execute(COUNT)).scalar_one())


async def write(database: Database, keys: Keyring, starts: Iterator[int]) -> None:
    """Batches from `starts`, which the writers share, until none is left."""
    for start in starts:
        bodies = [UserCreate(**person(number, series="list")) for number in range(start, start + BATCH)]
        async with database.session(BEGIN) as session:
            repository = UserRepository(session, keys.cipher, BlindIndex(keys.blind_index))
            for outcome in await UserService(repository, Origin("benchmark", "preload", "")).create(bodies):
                outcome.unwrap()


async def analyze(database_url: str) -> None:
    """Outside of the pool, whose statements may take five seconds only."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
