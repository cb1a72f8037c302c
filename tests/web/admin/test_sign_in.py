"""Signing in to the admin page at an issuer: OpenID Connect's authorization code flow with PKCE."""

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from support.api import create_user, user_url
from support.browser import needs_chromium
from support.issuer import AUDIENCE
from support.login_issuer import CLIENT_ID, Login, login_issuer
from support.process import ServiceProcess, serving
from support.servers import PostgresServer
from support.visitor import Visitor

ACCOUNT = "Sign in with your account"


@pytest.fixture(scope="module")
def shared_login() -> Iterator[Login]:
    with login_issuer() as login:
        yield login


@pytest.fixture(scope="module")
def service(
    postgres: PostgresServer, migrated_template: str, shared_login: Login, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    url = postgres.create_database("sign_in", template=migrated_template)
    settings = {
        "JWT_ISSUER": shared_login.url,
        "JWT_AUDIENCE": AUDIENCE,
        "JWT_JWKS_URL": shared_login.tokens.jwks_url,
        "ADMIN_OIDC_CLIENT_ID": CLIENT_ID,
        "ADMIN_OIDC_SCOPE": "openid users:read",
    }
    with serving(tmp_path_factory.mktemp("sign_in"), DATABASE_URL=url, **settings) as service:
        with service.client() as client:
            assert client.get("/admin/sign-in").status_code == 200
        yield service
    postgres.drop_database("sign_in")


@pytest.fixture
def login(shared_login: Login) -> Login:
    """The issuer, as it is at first."""
    shared_login.__dict__.update(Login(shared_login.tokens).__dict__)
    return shared_login


@pytest.fixture
def person(service: ServiceProcess, login: Login, visitor: Visitor) -> Visitor:
    visitor.open(f"{service.url}/admin")
    visitor.sees(ACCOUNT)
    return visitor


@needs_chromium
def test_a_person_signs_in_and_has_a_name_of_its_own_in_the_audit(
    service: ServiceProcess, person: Visitor, login: Login
) -> None:
    person.click(ACCOUNT)
    person.sees("Signed in as jwt:")

    with service.client() as client:
        user = create_user(client)
        person.page.value(f"location.hash = '#/user/{user['id']}'")
        person.click("Suspend")
        person.click("Suspend")
        person.sees("The user is suspended.")
        actor = client.get(user_url(user, "/audit")).json()["items"][1]["actor"]
    assert actor in person.text("#caller")
    assert login.granted == ["authorization_code"]
    assert person.faults() == []


@needs_chromium
def test_neither_a_token_nor_a_code_stays_in_the_browser(service: ServiceProcess, person: Visitor) -> None:
    person.click(ACCOUNT)
    person.sees("Signed in as jwt:")
    kept = json.dumps(person.page.send("Page.getNavigationHistory"))

    assert person.page.value("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert "code" not in kept
    assert "state" not in kept
    assert "code_verifier" not in service.read_log()
    assert person.page.value("window.opener") is None


@needs_chromium
@pytest.mark.parametrize(
    ("errors", "sentence"),
    [
        ({"authorize": "The person has said no"}, "The issuer has refused: The person has said no."),
        ({"token": "The code is used"}, "The issuer gives no token: The code is used."),
    ],
)
def test_a_refusal_is_said_and_can_be_tried_again(
    person: Visitor, login: Login, errors: dict[str, str], sentence: str
) -> None:
    login.errors = errors
    person.click(ACCOUNT)
    person.sees(sentence)
    login.errors = {}
    person.click(ACCOUNT)

    person.sees("Signed in as jwt:")


@needs_chromium
def test_an_answer_to_another_attempt_is_not_taken(person: Visitor, login: Login) -> None:
    login.state = "of-someone-else"
    person.click(ACCOUNT)
    person.sees("Sign in in the window that has opened.")
    time.sleep(1)
    assert not person.has("Sign out")
    person.click("Cancel")

    person.sees(ACCOUNT)
    assert login.granted == []


@needs_chromium
def test_a_token_without_a_scope_says_what_is_missing(person: Visitor, login: Login) -> None:
    login.scope = ""
    person.click(ACCOUNT)

    person.sees("it lacks the scope users:read")


def sign_in_for_seconds(person: Visitor, login: Login) -> float:
    """Signs in with a token that the service takes for eight seconds; returns a time after its end."""
    # The service allows for clocks that differ by 30 seconds.
    login.lifetime_seconds = -30 + 8
    person.click(ACCOUNT)
    person.sees("Signed in as jwt:")
    expired_at = time.monotonic() + 10
    login.lifetime_seconds = 300
    return expired_at


@needs_chromium
@pytest.mark.parametrize("has_refresh", [True, False])
def test_a_token_that_expires_is_renewed_without_a_question_where_the_issuer_allows_it(
    service: ServiceProcess, person: Visitor, login: Login, has_refresh: bool
) -> None:
    login.has_refresh = has_refresh
    expired_at = sign_in_for_seconds(person, login)
    with service.client() as client:
        user = create_user(client)
        person.page.value(f"location.hash = '#/user/{user['id']}'")
        person.enter("Given name", "Ada")
        time.sleep(max(0.0, expired_at - time.monotonic()))
        person.click("Save")
        if not has_refresh:
            person.sees("Sign in again")
            person.click(ACCOUNT)
        person.sees("The changes are saved.")
        assert client.get(user_url(user)).json()["given_name"] == "Ada"
    assert login.granted == ["authorization_code", "refresh_token" if has_refresh else "authorization_code"]


@needs_chromium
def test_a_lost_connection_to_the_issuer_keeps_what_renews_a_token(
    service: ServiceProcess, person: Visitor, login: Login
) -> None:
    login.has_refresh = True
    expired_at = sign_in_for_seconds(person, login)
    with service.client() as client:
        user = create_user(client)
        person.page.value(f"location.hash = '#/user/{user['id']}'")
        person.enter("Given name", "Ada")
        person.page.send("Network.setBlockedURLs", urls=["*/token*"])
        time.sleep(max(0.0, expired_at - time.monotonic()))
        person.click("Save")
        person.click("Not now")
        person.page.send("Network.setBlockedURLs", urls=[])
        person.click("Save")
        person.sees("The changes are saved.")
    assert login.granted == ["authorization_code", "refresh_token"]


def test_the_page_may_ask_the_issuer_and_no_one_else(service: ServiceProcess, shared_login: Login) -> None:
    policy = httpx.get(f"{service.url}/admin").headers["content-security-policy"]

    assert f"connect-src 'self' {shared_login.url};" in policy
    assert httpx.get(f"{service.url}/admin/sign-in").json() == {
        "oidc": {
            "issuer": shared_login.url,
            "authorization_endpoint": f"{shared_login.url}/authorize",
            "token_endpoint": f"{shared_login.url}/token",
            "client_id": CLIENT_ID,
            "scope": "openid users:read",
            "audience": AUDIENCE,
        }
    }


def test_the_callback_takes_whatever_an_issuer_sends(service: ServiceProcess) -> None:
    response = httpx.get(f"{service.url}/admin/callback", params={"code": "x", "session_state": "y", "iss": "<script>"})

    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<script>" not in response.text.replace('<script type="module"', "")
