"""Tokens: which are accepted, and a table of those that are refused."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.api import USERS
from support.issuer import Issuer
from support.live_server import LiveServer
from support.settings import API_KEY


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def anonymous(server: LiveServer) -> httpx.Client:
    return server.client(Accept="application/json")


def expect_refusal(response: httpx.Response, status: int, code: str) -> str:
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    detail: str = problem["detail"]
    return detail


def encode(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_a_token_of_every_kind_of_key_gets_in_with_its_scopes(
    server: LiveServer, shared_issuer: Issuer, algorithm: str
) -> None:
    key_id = next(known for known, its in shared_issuer.algorithms.items() if its == algorithm)
    token = shared_issuer.token(key_id=key_id, sub=f"reader-{algorithm}", scope="users:read")

    with anonymous(server) as client:
        listed = client.get(USERS, headers=bearer(token))
        created = client.post(USERS, headers=bearer(token), json={"email": "a@example.org"})

    assert listed.status_code == 200
    assert "users:write" in expect_refusal(created, 403, "forbidden")


def with_hmac_of_the_public_key(issuer: Issuer) -> str:
    """A token whose HMAC key is the public RSA key."""
    key_id = next(known for known, its in issuer.algorithms.items() if its == "RS256")
    public = issuer.private[key_id].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = encode({"alg": "HS256", "typ": "JWT", "kid": key_id})
    signed = f"{head}.{encode(issuer.claims(scope='users:read'))}"
    mac = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return f"{signed}.{mac}"


def without_signature(issuer: Issuer) -> str:
    key_id = next(iter(issuer.private))
    return f"{encode({'alg': 'none', 'typ': 'JWT', 'kid': key_id})}.{encode(issuer.claims(scope='users:read'))}."


def tampered(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    return f"{head}.{encode(issuer.claims(scope='users:read users:write'))}.{signature}"


def of_another_key(issuer: Issuer) -> str:
    other = Issuer(0)
    other.add_key("ES256", next(iter(issuer.private)))
    return jwt.encode(
        issuer.claims(), next(iter(other.private.values())), "ES256", headers={"kid": next(iter(other.private))}
    )


def with_the_algorithm_of_another_key(issuer: Issuer) -> str:
    """Signed by RSA under the name of an EC key."""
    rsa = next(known for known, its in issuer.algorithms.items() if its == "RS256")
    ec = next(known for known, its in issuer.algorithms.items() if its == "ES256")
    return issuer.token(key_id=rsa, headers={"kid": ec})


now = time.time
REFUSED: dict[str, Callable[[Issuer], str]] = {
    "alg none": without_signature,
    "hmac with the public key": with_hmac_of_the_public_key,
    "tampered": tampered,
    "signed with another key": of_another_key,
    "algorithm of another kind of key": with_the_algorithm_of_another_key,
    "unknown kid": lambda issuer: issuer.token(headers={"kid": "nobody"}),
    "no kid": lambda issuer: jwt.encode(issuer.claims(), next(iter(issuer.private.values())), "ES256"),
    "kid of another type": lambda issuer: (
        f"{encode({'alg': 'ES256', 'kid': ['a']})}.{encode(issuer.claims())}.{encode({})}"
    ),
    "endless kid": lambda issuer: issuer.token(headers={"kid": "k" * 300}),
    "unknown critical header": lambda issuer: issuer.token(headers={"crit": ["exp"], "exp": 1}),
    "another type of token": lambda issuer: issuer.token(headers={"typ": "logout+jwt"}),
    "other audience": lambda issuer: issuer.token(aud="another-service"),
    "no audience": lambda issuer: issuer.token(aud=...),
    "other issuer": lambda issuer: issuer.token(iss="https://issuer.example"),
    "no issuer": lambda issuer: issuer.token(iss=...),
    "expired": lambda issuer: issuer.token(iat=int(now()) - 700, exp=int(now()) - 60),
    "never expires": lambda issuer: issuer.token(exp=...),
    "expires at infinity": lambda issuer: issuer.token(exp=float("inf")),
    "expires in words": lambda issuer: issuer.token(exp="tomorrow"),
    "not valid yet": lambda issuer: issuer.token(nbf=int(now()) + 120),
    "issued in the future": lambda issuer: issuer.token(iat=int(now()) + 120),
    "no subject": lambda issuer: issuer.token(sub=...),
    "empty subject": lambda issuer: issuer.token(sub=""),
    "subject with a control character": lambda issuer: issuer.token(sub="a\0b"),
    "subject with half a character": lambda issuer: issuer.token(sub="\ud800"),
    "endless subject": lambda issuer: issuer.token(sub="s" * 256),
    "oversized": lambda issuer: issuer.token(padding="x" * 9000),
    "deeply nested": lambda _: f"{encode({'alg': 'ES256', 'kid': 'a'})}.{nested()}.AAAA",
    "three dots of nothing": lambda _: "..",
    "no base64": lambda _: "a.b.c",
    "bytes that are no text": lambda _: "ey.\xff.x",
    "a claim set that is a list": lambda _: f"{encode({'alg': 'ES256', 'kid': 'a'})}.W10.AAAA",
}


def nested() -> str:
    return base64.urlsafe_b64encode(b"[" * 3000 + b"]" * 3000).rstrip(b"=").decode()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_token_is_refused_when_it_is(server: LiveServer, shared_issuer: Issuer, kind: str) -> None:
    token = REFUSED[kind](shared_issuer)

    with anonymous(server) as client:
        response = client.get(USERS, headers={"Authorization": b"Bearer " + token.encode("latin-1")})

    detail = expect_refusal(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"
    assert token not in detail


def test_an_oversized_token_is_refused_for_its_size(server: LiveServer, shared_issuer: Issuer) -> None:
    with anonymous(server) as client:
        response = client.get(USERS, headers=bearer(REFUSED["oversized"](shared_issuer)))

    assert "longer than 8192 bytes" in expect_refusal(response, 401, "unauthenticated")


def test_two_authorization_headers_are_refused_though_both_are_good(server: LiveServer, shared_issuer: Issuer) -> None:
    token = shared_issuer.token(scope="users:read")
    request = (
        f"GET {USERS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n\r\n"
    )

    with server.connect() as connection:
        connection.sendall(request.encode())
        response = connection.recv(65536)

    assert response.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("key", [API_KEY, "not-a-key-of-this-service"])
def test_a_key_and_a_token_together_are_refused(server: LiveServer, shared_issuer: Issuer, key: str) -> None:
    token = shared_issuer.token(scope="users:read")

    with anonymous(server) as client:
        response = client.get(USERS, headers={**bearer(token), "X-API-Key": key})

    assert "different credentials" in expect_refusal(response, 401, "unauthenticated")


@pytest.mark.parametrize("name", ["access_token", "token", "api_key", "x-api-key"])
def test_a_credential_in_the_query_is_no_credential(server: LiveServer, shared_issuer: Issuer, name: str) -> None:
    token = shared_issuer.token(scope="users:read")

    with anonymous(server) as client:
        response = client.get(USERS, params={name: token})

    expect_refusal(response, 401, "unauthenticated")


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": "openid users:read"},
        {"scp": ["users:read"]},
        {"scp": "profile users:read"},
        {"scopes": ["users:read", 7]},
    ],
)
def test_scopes_are_found_under_each_name(server: LiveServer, shared_issuer: Issuer, claims: dict[str, Any]) -> None:
    with anonymous(server) as client:
        response = client.get(USERS, headers=bearer(shared_issuer.token(**claims)))

    assert response.status_code == 200


def test_an_unknown_scope_gives_nothing(server: LiveServer, shared_issuer: Issuer) -> None:
    with anonymous(server) as client:
        response = client.get(USERS, headers=bearer(shared_issuer.token(scope="users:* admin USERS:READ")))

    expect_refusal(response, 403, "forbidden")


@pytest.mark.parametrize(
    ("method", "ending", "scope"),
    [
        ("GET", "", "users:read"),
        ("PATCH", "", "users:write"),
        ("DELETE", "", "users:delete"),
        ("DELETE", "?purge=true", "users:purge"),
        ("POST", "/suspend", "users:write"),
        ("POST", "/login", "users:write"),
    ],
)
def test_known_and_unknown_users_are_refused_alike_and_without_a_look(
    server: LiveServer, shared_issuer: Issuer, method: str, ending: str, scope: str
) -> None:
    with server.client() as client:
        known = client.post(USERS, json={"email": f"{uuid4().hex}@example.org"}).json()["id"]
    token = shared_issuer.token()
    looked = dict(server.metrics.cache_hits.values), dict(server.metrics.cache_misses.values)

    responses = []
    with anonymous(server) as client:
        for user_id in (known, uuid4()):
            url = f"{USERS}/{user_id}{ending}"
            response = client.request(method, url, headers={**bearer(token), "X-Request-ID": "same"}, json={})
            responses.append((response.status_code, response.content))

    assert responses[0] == responses[1]
    assert scope in httpx.Response(403, content=responses[0][1]).json()["detail"]
    assert (dict(server.metrics.cache_hits.values), dict(server.metrics.cache_misses.values)) == looked


def test_the_fast_path_serves_tokens(server: LiveServer, shared_issuer: Issuer) -> None:
    with server.client() as client:
        made = client.post(USERS, json={"email": f"{uuid4().hex}@example.org"}).json()
    token = shared_issuer.token(scope="users:read")

    with anonymous(server) as client:
        responses = [client.get(f"{USERS}/{made['id']}", headers=bearer(token)) for _ in range(3)]

    assert [response.json() for response in responses] == [made] * 3


def test_the_trail_names_a_subject_by_a_hash(server: LiveServer, shared_issuer: Issuer) -> None:
    authenticator = server.application.authenticator
    subject = "ada@example.org"
    token = shared_issuer.token(sub=subject, scope="users:write")

    with anonymous(server) as client:
        made = client.post(USERS, headers=bearer(token), json={"email": f"{uuid4().hex}@example.org"})

    principal = authenticator.find({b"authorization": f"Bearer {token}".encode()})
    assert made.status_code == 201
    assert principal is not None
    assert principal.name.startswith("jwt:")
    assert subject not in principal.name
    assert subject not in repr(principal)


def test_a_cached_token_ends_when_it_expires(server: LiveServer, shared_issuer: Issuer) -> None:
    tokens = server.application.authenticator.tokens
    token = shared_issuer.token(scope="users:read", exp=int(now()) - 10)

    with anonymous(server) as client:
        within_leeway = client.get(USERS, headers=bearer(token))

    assert within_leeway.status_code == 200
    assert tokens.get_cached(token.encode()) is None
