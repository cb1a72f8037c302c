"""A service with SCIM behind its real HTTP server, over a real PostgreSQL."""

from collections.abc import Iterator

import pytest

from support.issuer import AUDIENCE, Issuer
from support.live_server import LiveServer, live
from support.scim import ScimClient
from support.servers import PostgresServer
from support.settings import make_settings


@pytest.fixture(scope="module")
def scim_server(
    shared_issuer: Issuer, postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A service with SCIM that trusts `shared_issuer`, without a rate limit."""
    name = f"scim_{shared_issuer.url.rpartition(':')[2]}"
    settings = make_settings(
        postgres.create_database(name, template=migrated_template),
        tmp_path_factory.mktemp("data"),
        scim=True,
        jwt_issuer=shared_issuer.url,
        jwt_audience=AUDIENCE,
        jwt_jwks_url=shared_issuer.jwks_url,
        rate_limit_max=0,
    )
    with live(settings) as running:
        yield running
    postgres.drop_database(name)


@pytest.fixture
def scim(scim_server: LiveServer) -> Iterator[ScimClient]:
    with ScimClient(scim_server.port) as client:
        yield client
