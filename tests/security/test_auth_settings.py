"""What the service refuses to start with."""

import pytest

from user_service.encryption.keyring import load_api_keys
from user_service.errors import ConfigurationError
from user_service.security.issuers import broker_issuers
from user_service.settings import Settings

PRODUCTION = {
    "APP_ENV": "production",
    "SECRETS_DIR": "/nonexistent",
    "DATABASE_URL": "postgresql://db/users",
    "ENCRYPTION_KEY": "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}
ISSUER = {
    "JWT_ISSUER": "https://id.test",
    "JWT_AUDIENCE": "users",
    "JWT_JWKS_URL": "https://id.test/keys",
}


def test_production_with_neither_key_nor_issuer_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match=r"INTERNAL_API_KEY: .* or a JWT_ISSUER"):
        Settings.load(PRODUCTION)


def test_production_with_an_issuer_alone_starts_and_makes_no_key() -> None:
    settings = Settings.load(PRODUCTION | ISSUER)

    assert load_api_keys(settings) == ()


@pytest.mark.parametrize("missing", ISSUER)
def test_an_issuer_named_in_part_is_refused(missing: str) -> None:
    environ = {name: value for name, value in ISSUER.items() if name != missing}

    with pytest.raises(ConfigurationError, match="set all three"):
        Settings.load({"SECRETS_DIR": "/nonexistent", **environ})


def test_an_events_audience_alone_means_the_cluster_and_its_keys() -> None:
    (issuer,) = broker_issuers(Settings.load({"SECRETS_DIR": "/nonexistent", "EVENTS_AUDIENCE": "events"}))

    assert issuer.audience == "events"
    assert issuer.grants == {"events:write"}
    assert issuer.jwks_url.startswith("https://kubernetes.default.svc/")
    assert broker_issuers(Settings()) == []


@pytest.mark.parametrize(
    ("url", "starts"),
    [
        ("http://id.test/keys", False),
        ("http://keycloak.id.svc/keys", True),
        ("http://keycloak.id.svc.cluster.local:8080/keys", True),
        ("http://localhost/keys", True),
        ("http://svc.cluster.local.id.test/keys", False),
        ("https://id.test/keys", True),
    ],
)
def test_production_reads_keys_over_nothing_that_others_can_change(url: str, starts: bool) -> None:
    environ = PRODUCTION | ISSUER | {"JWT_JWKS_URL": url}

    if starts:
        assert Settings.load(environ).jwt_jwks_url == url
    else:
        with pytest.raises(ConfigurationError, match="use https"):
            Settings.load(environ)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://id.test/keys"])
def test_keys_come_over_http(url: str) -> None:
    with pytest.raises(ConfigurationError, match="JWT_JWKS_URL"):
        Settings.load({"SECRETS_DIR": "/nonexistent"} | ISSUER | {"JWT_JWKS_URL": url})
