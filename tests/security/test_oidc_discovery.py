"""Reading the endpoints of an issuer."""

import json

import pytest

from support.login_issuer import Login, login_issuer
from user_service.errors import IssuerUnavailable
from user_service.security.oidc_discovery import OidcDiscovery, parse_endpoints

ISSUER = "https://login.example.org/tenant"
GOOD = {
    "issuer": ISSUER,
    "authorization_endpoint": "https://login.example.org/tenant/authorize?realm=1",
    "token_endpoint": "https://tokens.example.org:8443/token",
}


def test_the_endpoints_are_read() -> None:
    endpoints = parse_endpoints(json.dumps(GOOD).encode(), ISSUER)

    assert endpoints.authorization == GOOD["authorization_endpoint"]
    assert endpoints.token_origin == "https://tokens.example.org:8443"


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://login.example.org/other"},
        {"issuer": None},
        {"token_endpoint": None},
        {"token_endpoint": "http://login.example.org/token"},
        {"token_endpoint": "https://login.example.org;script-src*/token"},
        {"token_endpoint": "https://login.example.org, https://evil.example/token"},
        {"token_endpoint": "https://user@login.example.org/token"},
        {"token_endpoint": "https:///token"},
        {"token_endpoint": "https://[::1/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "data:text/html,x"},
        {"authorization_endpoint": ["https://login.example.org/authorize"]},
        {"authorization_endpoint": "https://login.example.org/" + "x" * 3000},
        {"authorization_endpoint": "https://lögin.example.org/"},
    ],
)
def test_what_is_no_endpoint_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"endpoint|issuer|Invalid"):
        parse_endpoints(json.dumps({**GOOD, **changed}).encode(), ISSUER)


@pytest.mark.parametrize("document", [b"", b"[]", b"null", b'"x"', b"{"])
def test_what_is_no_document_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"issuer|column|document"):
        parse_endpoints(document, ISSUER)


async def test_an_issuer_that_comes_back_is_read_again_and_one_that_goes_is_remembered() -> None:
    with login_issuer() as login:
        login.is_open = False
        discovery = OidcDiscovery(login.url)
        with pytest.raises(IssuerUnavailable):
            await discovery.find()
        login.is_open = True
        discovery.retry_at = 0.0
        assert (await discovery.find()).token == f"{login.url}/token"
        login.is_open = False
        discovery.fresh_until = 0.0
        assert (await discovery.find()).token == f"{login.url}/token"


def test_the_issuer_of_the_tests_is_like_others() -> None:
    with login_issuer() as login:
        assert isinstance(login, Login)
        assert parse_endpoints(json.dumps(login.document()).encode(), login.url).token_origin == login.url
