"""Which principals may send events."""

from pathlib import Path

import pytest

from support.issuer import AUDIENCE, Issuer, issuer
from support.live_server import live
from support.settings import make_settings
from user_service.settings import Settings

EVENTS_AUDIENCE = "user-service-events"


@pytest.fixture
def trusting(database_url: str, data_dir: Path, shared_issuer: Issuer) -> Settings:
    return make_settings(
        database_url,
        data_dir,
        jwt_issuer=shared_issuer.url,
        jwt_audience=AUDIENCE,
        jwt_jwks_url=shared_issuer.jwks_url,
    )


def test_users_need_the_scope_for_events(trusting: Settings, shared_issuer: Issuer) -> None:
    statuses = {}
    with live(trusting) as server, server.client(Accept="*/*") as client:
        for name, claims in {"without": {}, "reader": {"scope": "users:read"}}.items():
            token = shared_issuer.token(**claims)
            for door in ("/events", "/"):
                response = client.post(door, headers={"Authorization": f"Bearer {token}"})
                statuses[name, door] = response.status_code
        statuses["anonymous", "/events"] = client.post("/events").status_code

    assert set(statuses.values()) == {401, 403}
    assert statuses["anonymous", "/events"] == 401


def test_a_broker_brings_events_and_nothing_else(trusting: Settings, shared_issuer: Issuer) -> None:
    from dataclasses import replace

    with issuer() as cluster:
        settings = replace(
            trusting,
            events_audience=EVENTS_AUDIENCE,
            events_issuer=cluster.url,
            events_jwks_url=cluster.jwks_url,
            events_subjects=("system:serviceaccount:knative-eventing:*",),
        )
        broker = cluster.token(aud=EVENTS_AUDIENCE, sub="system:serviceaccount:knative-eventing:broker")
        other_pod = cluster.token(aud=EVENTS_AUDIENCE, sub="system:serviceaccount:default:pod")
        elsewhere = cluster.token(aud="another", sub="system:serviceaccount:knative-eventing:broker")
        with live(settings) as server, server.client(Accept="*/*") as client:

            def ask(method: str, path: str, token: str) -> int:
                return client.request(method, path, headers={"Authorization": f"Bearer {token}"}).status_code

            assert ask("POST", "/events", broker) not in {401, 403}
            assert ask("POST", "/events", other_pod) == 401
            assert ask("POST", "/events", elsewhere) == 401
            assert ask("GET", "/api/v1/users", broker) == 401
            assert ask("GET", "/api/v1/users/me", broker) == 401


def test_a_trusted_network_brings_events_and_nothing_else(database_url: str, data_dir: Path) -> None:
    settings = make_settings(database_url, data_dir, events_trust_network=True)

    with live(settings) as server, server.client(Accept="*/*") as client:
        assert client.post("/events").status_code not in {401, 403}
        assert client.get("/api/v1/users").status_code == 401
