"""API keys: which requests need one."""

import httpx
import pytest

from support.api import USERS, expect_problem, make_user, user_url
from support.settings import API_KEY, OTHER_API_KEY

GUARDED = [
    ("GET", USERS),
    ("POST", USERS),
    ("GET", f"{USERS}/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"),
    ("HEAD", f"{USERS}/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"),
    ("DELETE", f"{USERS}/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"),
    ("POST", f"{USERS}/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f/restore"),
    ("PUT", f"{USERS}/by-external-id/x"),
    ("GET", "/api/v1/cache"),
    ("DELETE", "/api/v1/cache"),
    ("POST", "/api/v1/cache/warm"),
    ("GET", "/api/v1/nothing"),
    ("OPTIONS", USERS),
    ("PUT", USERS),
]
WRONG: list[dict[str, str]] = [
    {},
    {"X-API-Key": ""},
    {"X-API-Key": "wrong"},
    {"X-API-Key": API_KEY + "x"},
    {"X-API-Key": API_KEY[:-1]},
    {"X-API-Key": API_KEY.upper()},
    {"X-API-Key": f"{API_KEY},{OTHER_API_KEY}"},
    {"X-API-Key": f"Bearer {API_KEY}"},
    {"X-API-Key": "x" * 8000},
    {"X-API-Key": "\xfc\xff"},
    {"Authorization": API_KEY},
    {"Authorization": f"Basic {API_KEY}"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Bearer {API_KEY} {API_KEY}"},
    {"Cookie": f"X-API-Key={API_KEY}"},
]


def bare(client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> httpx.Request:
    request = client.build_request(method, path)
    del request.headers["X-API-Key"]
    fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    request.headers = httpx.Headers([*request.headers.raw, *fields])
    return request


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_no_endpoint_answers_without_a_key(shared_client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await shared_client.send(bare(shared_client, method, path, {}))

    assert response.headers["www-authenticate"] == "Bearer"
    if method != "HEAD":
        expect_problem(response, 401, "unauthenticated")


@pytest.mark.parametrize("headers", WRONG, ids=lambda headers: repr(headers)[:40])
async def test_a_wrong_key_opens_none(shared_client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    user = await make_user(shared_client)

    for path in (USERS, user_url(user), f"{user_url(user)[:-1]}0"):
        response = await shared_client.send(bare(shared_client, "GET", path, headers))
        problem = expect_problem(response, 401, "unauthenticated")
        assert API_KEY not in str(problem)


@pytest.mark.parametrize("query", [f"?X-API-Key={API_KEY}", f"?api_key={API_KEY}", f"?access_token={API_KEY}"])
async def test_a_key_in_the_address_is_none(shared_client: httpx.AsyncClient, query: str) -> None:
    expect_problem(await shared_client.send(bare(shared_client, "GET", USERS + query, {})), 401, "unauthenticated")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": API_KEY},
        {"X-API-Key": OTHER_API_KEY},
        {"Authorization": f"Bearer {API_KEY}"},
        {"Authorization": f"bearer  {OTHER_API_KEY}"},
    ],
)
async def test_each_of_the_keys_opens_every_endpoint(shared_client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    user = await make_user(shared_client)

    for method, path in [("GET", USERS), ("GET", "/api/v1/cache"), ("GET", user_url(user)), ("DELETE", user_url(user))]:
        response = await shared_client.send(bare(shared_client, method, path, headers))
        assert response.is_success


@pytest.mark.parametrize("path", ["/api/health/live", "/api/health/ready", "/metrics", "/openapi.json", "/docs"])
async def test_what_operators_and_readers_need_is_open(shared_client: httpx.AsyncClient, path: str) -> None:
    assert (await shared_client.send(bare(shared_client, "GET", path, {}))).status_code == 200
