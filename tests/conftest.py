import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import hypothesis
import pytest

from support.citus import CITUS_DATABASE_URL, NO_CITUS, CitusDatabase
from support.servers import PostgresServer, RedisServer, postgres_server, redis_server

# No deadline: machines differ. No database: an example that failed belongs into a test, not into a folder.
hypothesis.settings.register_profile(
    "tests", deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")
pytest_plugins = [
    "support.application",
    "support.batch_service",
    "support.event_sink",
    "support.log_guard",
    "support.process",
    "support.security_fixtures",
]
# A shell starts what runs in its background with Ctrl-C ignored, and so would everything that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = "migrated"
numbers = count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The PostgreSQL of this test process. A test that stops it starts it again."""
    with postgres_server(tmp_path_factory.mktemp("servers")) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: PostgresServer) -> str:
    from user_service.postgres.migrations import upgrade

    upgrade(postgres.create_database(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def citus() -> CitusDatabase:
    if not CITUS_DATABASE_URL:
        pytest.skip(NO_CITUS)
    return CitusDatabase(CITUS_DATABASE_URL)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own, migrated to head; that of CITUS_DATABASE_URL for tests marked `distributed`."""
    marked = request.node.get_closest_marker
    if CITUS_DATABASE_URL and marked("distributed") and not marked("one_server"):
        citus: CitusDatabase = request.getfixturevalue("citus")
        citus.empty()
        yield citus.url
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("migrated_template")
    name = f"test_{next(numbers)}"
    yield postgres.create_database(name, template=template)
    postgres.drop_database(name)


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """A database of the test's own without a table."""
    name = f"test_{next(numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("servers")) as server:
        yield server


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """An empty Redis. A test that pauses or stops one asks for `own_redis`."""
    shared_redis.command("FLUSHALL")
    return shared_redis.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may stop."""
    with postgres_server(tmp_path) as server:
        yield server
