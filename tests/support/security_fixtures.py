from collections.abc import Iterator
from pathlib import Path

import pytest

from support.issuer import AUDIENCE, Issuer, issuer
from support.live_server import LiveServer, live
from support.servers import PostgresServer
from support.settings import make_settings


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with issuer() as made:
        for algorithm in ("RS256", "PS256", "ES384", "EdDSA"):
            made.add_key(algorithm)
        yield made


@pytest.fixture(scope="module")
def server(
    shared_issuer: Issuer, postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A service that trusts `shared_issuer`, without a rate limit."""
    name = f"security_{shared_issuer.url.rpartition(':')[2]}"
    settings = make_settings(
        postgres.create_database(name, template=migrated_template),
        tmp_path_factory.mktemp("data"),
        jwt_issuer=shared_issuer.url,
        jwt_audience=AUDIENCE,
        jwt_jwks_url=shared_issuer.jwks_url,
        rate_limit_max=0,
    )
    with live(settings) as running:
        yield running
    postgres.drop_database(name)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path
