from collections.abc import Iterator
from itertools import count

import pytest

from support.servers import PostgresServer, postgres_server
from user_service.postgres.migrations import upgrade

numbers = count()


@pytest.fixture(scope="session")
def spare_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL for tests that stop it; each leaves it running. Its database `migrated` is a template."""
    with postgres_server(tmp_path_factory.mktemp("servers")) as server:
        upgrade(server.create_database("migrated"))
        yield server


@pytest.fixture
def spare_url(spare_postgres: PostgresServer) -> Iterator[str]:
    """A migrated database there, of the test's own."""
    name = f"spare_{next(numbers)}"
    yield spare_postgres.create_database(name, template="migrated")
    spare_postgres.drop_database(name)
