"""A service with SCIM behind its real HTTP server, over a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from support.citus import CITUS_DATABASE_URL, CitusDatabase
from support.issuer import AUDIENCE, Issuer
from support.live_server import LiveServer, live
from support.scim import ScimClient
from support.servers import PostgresServer
from support.settings import make_settings


@pytest.fixture(scope="module")
def scim_database_url(request: pytest.FixtureRequest, shared_issuer: Issuer) -> Iterator[str]:
    """A database for the tests of a module; that of CITUS_DATABASE_URL for one that is marked `distributed`."""
    if CITUS_DATABASE_URL and request.node.get_closest_marker("distributed"):
        citus: CitusDatabase = request.getfixturevalue("citus")
        citus.empty()
        yield citus.url
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    name = f"scim_{shared_issuer.url.rpartition(':')[2]}"
    yield postgres.create_database(name, template=request.getfixturevalue("migrated_template"))
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def scim_server(
    scim_database_url: str, shared_issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A service with SCIM that trusts `shared_issuer`, without a rate limit."""
    settings = make_settings(
        scim_database_url,
        tmp_path_factory.mktemp("data"),
        scim=True,
        jwt_issuer=shared_issuer.url,
        jwt_audience=AUDIENCE,
        jwt_jwks_url=shared_issuer.jwks_url,
        rate_limit_max=0,
    )
    with live(settings) as running:
        yield running


@pytest.fixture
def scim(scim_server: LiveServer) -> Iterator[ScimClient]:
    with ScimClient(scim_server.port) as client:
        yield client
