"""`/users/me`: the user that a token's subject means."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user
from support.issuer import AUDIENCE, Issuer
from support.live_server import LiveServer, live
from support.settings import make_settings

ME = f"{USERS}/me"


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def as_subject(server: LiveServer, issuer: Issuer, subject: str) -> httpx.Client:
    return server.client(Authorization=f"Bearer {issuer.token(sub=subject)}")


def test_the_subject_is_an_external_id(server: LiveServer, shared_issuer: Issuer, client: httpx.Client) -> None:
    made = create_user(client, external_id=f"ext-{uuid4().hex}")

    with as_subject(server, shared_issuer, made["external_id"]) as own:
        response = own.get(ME)
        again = own.get(ME, headers={"If-None-Match": response.headers["etag"]})

    assert response.json() == made
    assert again.status_code == 304
    assert again.content == b""


def test_the_subject_is_an_id(server: LiveServer, shared_issuer: Issuer, client: httpx.Client) -> None:
    made = create_user(client)

    with as_subject(server, shared_issuer, made["id"]) as own:
        assert own.get(ME).json() == made


def test_an_ambiguous_subject_means_no_user(server: LiveServer, shared_issuer: Issuer, client: httpx.Client) -> None:
    victim = create_user(client)
    create_user(client, external_id=victim["id"])

    with as_subject(server, shared_issuer, victim["id"]) as own:
        responses = [own.get(ME), own.patch(ME, json={"given_name": "Mallory"})]

    assert [response.status_code for response in responses] == [403, 403]
    assert client.get(f"{USERS}/{victim['id']}").json() == victim


@pytest.mark.parametrize("form", ["upper", "braces", "urn"])
def test_an_id_in_another_spelling_is_no_id(
    server: LiveServer, shared_issuer: Issuer, client: httpx.Client, form: str
) -> None:
    user_id = create_user(client)["id"]
    spelled = {"upper": user_id.upper(), "braces": f"{{{user_id}}}", "urn": f"urn:uuid:{user_id}"}[form]

    with as_subject(server, shared_issuer, spelled) as own:
        assert own.get(ME).status_code == 404


@pytest.mark.parametrize(("known_as", "found"), [("external_id", "by_external_id"), ("id", "by_id")])
def test_an_operator_says_what_subjects_are(
    database_url: str, data_dir: Path, shared_issuer: Issuer, known_as: str, found: str
) -> None:
    settings = make_settings(
        database_url,
        data_dir,
        jwt_issuer=shared_issuer.url,
        jwt_audience=AUDIENCE,
        jwt_jwks_url=shared_issuer.jwks_url,
        jwt_subject=known_as,
    )
    with live(settings) as server, server.client() as client:
        by_id = create_user(client)
        by_external_id = create_user(client, external_id=by_id["id"])
        with as_subject(server, shared_issuer, by_id["id"]) as own:
            assert own.get(ME).json() == {"by_id": by_id, "by_external_id": by_external_id}[found]


def test_users_change_themselves(server: LiveServer, shared_issuer: Issuer, client: httpx.Client) -> None:
    made = create_user(client, external_id=f"ext-{uuid4().hex}", email_verified=True)

    with as_subject(server, shared_issuer, made["external_id"]) as own:
        changed = own.patch(ME, json={"given_name": "Ada", "email": f"{uuid4().hex}@example.org"})
        stale = own.patch(ME, json={"given_name": "Eve"}, headers={"If-Match": '"1"'})

    assert changed.status_code == 200
    assert changed.json()["given_name"] == "Ada"
    assert changed.json()["email_verified"] is False
    assert stale.status_code == 412


@pytest.mark.parametrize("field", ["external_id", "status", "metadata", "email_verified", "aliases"])
def test_users_can_not_change_fields_that_other_services_decide_by(
    server: LiveServer, shared_issuer: Issuer, client: httpx.Client, field: str
) -> None:
    made = create_user(client, external_id=f"ext-{uuid4().hex}")
    value = {"external_id": "another", "status": "active", "metadata": {"role": "admin"}, "email_verified": True}
    value |= {"aliases": ["victim@example.org"]}

    with as_subject(server, shared_issuer, made["external_id"]) as own:
        response = own.patch(ME, json={field: value[field]})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == f"/{field}"


def test_a_suspended_user_reads_and_does_not_write(
    server: LiveServer, shared_issuer: Issuer, client: httpx.Client
) -> None:
    made = create_user(client, external_id=f"ext-{uuid4().hex}", status="suspended")

    with as_subject(server, shared_issuer, made["external_id"]) as own:
        assert own.get(ME).status_code == 200
        assert own.patch(ME, json={"given_name": "Ada"}).status_code == 403


def test_a_deleted_user_is_not_there(server: LiveServer, shared_issuer: Issuer, client: httpx.Client) -> None:
    made = create_user(client, external_id=f"ext-{uuid4().hex}")
    client.delete(f"{USERS}/{made['id']}")

    for subject in (made["external_id"], made["id"]):
        with as_subject(server, shared_issuer, subject) as own:
            assert own.get(ME).json()["code"] == "user_not_found"


def test_an_api_key_has_no_user_of_its_own(client: httpx.Client) -> None:
    assert client.get(ME).status_code == 403
    assert client.patch(ME, json={}).status_code == 403
