"""The service and a browser for the tests of the admin page."""

from collections.abc import Iterator

import httpx
import pytest

from support.browser import Page, browsing
from support.issuer import AUDIENCE, Issuer, issuer
from support.process import ServiceProcess, serving
from support.servers import PostgresServer
from support.settings import API_KEY
from support.visitor import Visitor


@pytest.fixture(scope="session")
def people() -> Iterator[Issuer]:
    """The issuer of persons' tokens."""
    with issuer() as people:
        yield people


@pytest.fixture(scope="session")
def admin_service(
    postgres: PostgresServer, migrated_template: str, people: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    url = postgres.create_database("admin", template=migrated_template)
    tokens = {"JWT_ISSUER": people.url, "JWT_AUDIENCE": AUDIENCE, "JWT_JWKS_URL": people.jwks_url}
    with serving(tmp_path_factory.mktemp("admin"), DATABASE_URL=url, SCIM="true", **tokens) as service:
        with service.client() as client:
            assert client.get("/api/v1/users").status_code == 200
        yield service
    postgres.drop_database("admin")


@pytest.fixture
def client(admin_service: ServiceProcess) -> Iterator[httpx.Client]:
    with admin_service.client() as client:
        yield client


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def visitor(browser: Page) -> Visitor:
    """At a new page that nobody has signed in to."""
    browser.begin()
    return Visitor(browser)


@pytest.fixture
def admin(admin_service: ServiceProcess, visitor: Visitor) -> Visitor:
    """Signed in, at the list of users. Its actions are counted from here on."""
    visitor.open(f"{admin_service.url}/admin")
    visitor.sign_in(API_KEY)
    return visitor
