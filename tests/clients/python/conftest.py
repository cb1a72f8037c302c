import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from uuid import uuid4

import pytest

from support.clients import open_client
from support.faulty_proxy import FaultyProxy, faulty_proxy
from support.process import ServiceProcess, serving
from support.servers import PostgresServer

OpenClient = Callable[..., Any]


@pytest.fixture(scope="session")
def service(
    postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """A service for all tests of the client in this process; they keep to users of their own."""
    name = f"clients_{uuid4().hex}"
    url = postgres.create_database(name, template=migrated_template)
    with serving(tmp_path_factory.mktemp("service"), DATABASE_URL=url, APP_ENV="production") as process:
        with process.client() as client:
            while client.get("/api/health/ready").status_code != 200:
                time.sleep(0.05)
        yield process
    postgres.drop_database(name)


@pytest.fixture
def through(service: ServiceProcess) -> Callable[..., AbstractContextManager[FaultyProxy]]:
    """Makes a proxy with these faults in front of the service."""
    port = int(service.url.rpartition(":")[2])
    return lambda *faults: faulty_proxy(port, *faults)


@pytest.fixture(params=["blocking", "async"])
def open_one(request: pytest.FixtureRequest) -> Iterator[OpenClient]:
    """Opens a client of each kind; the test runs with both."""
    with ExitStack() as stack:
        yield lambda url, **options: stack.enter_context(open_client(request.param, url, **options))


@pytest.fixture
def client(open_one: OpenClient, service: ServiceProcess) -> Any:
    """A client of the service without a proxy."""
    return open_one(service.url)


@pytest.fixture
def address() -> Callable[[], str]:
    """Makes addresses that no other test has."""
    return lambda: f"u-{uuid4().hex}@example.org"
