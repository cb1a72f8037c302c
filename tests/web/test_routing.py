"""Methods and addresses that are not there"""

import httpx
import pytest

from support.api import USERS, expect_problem, make_user

ADDRESSES = {
    USERS: {"GET", "HEAD", "POST"},
    f"{USERS}/{{id}}": {"GET", "HEAD", "PATCH", "DELETE"},
    f"{USERS}/{{id}}/restore": {"POST"},
    f"{USERS}/{{id}}/suspend": {"POST"},
    f"{USERS}/{{id}}/activate": {"POST"},
    f"{USERS}/{{id}}/login": {"POST"},
    f"{USERS}/by-external-id/x": {"PUT"},
    f"{USERS}/batch/create": {"POST"},
    f"{USERS}/batch/restore": {"POST"},
    f"{USERS}/imports": {"GET", "HEAD", "POST"},
    f"{USERS}/export": {"GET", "HEAD"},
    "/": {"POST"},
    "/events": {"POST"},
    "/api/v1/cache": {"GET", "HEAD", "DELETE"},
    "/api/v1/cache/warm": {"POST"},
    "/api/health/live": {"GET", "HEAD"},
    "/api/health/ready": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
    "/docs": {"GET", "HEAD"},
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "X"]


@pytest.mark.parametrize(
    ("address", "method"),
    [(address, method) for address, allowed in ADDRESSES.items() for method in METHODS if method not in allowed],
)
async def test_other_methods_are_refused_with_those_allowed(
    shared_client: httpx.AsyncClient, address: str, method: str
) -> None:
    user = await make_user(shared_client)

    request = shared_client.build_request("GET", address.format(id=user["id"]))
    request.method = method
    response = await shared_client.send(request)

    if method == "HEAD":
        assert (response.status_code, response.content) == (405, b"")
    else:
        expect_problem(response, 405, "method_not_allowed")
    assert {name.strip() for name in response.headers["allow"].split(",")} == ADDRESSES[address]


@pytest.mark.parametrize("address", [address for address, allowed in ADDRESSES.items() if "HEAD" in allowed])
async def test_a_head_is_a_get_without_the_body(shared_client: httpx.AsyncClient, address: str) -> None:
    user = await make_user(shared_client)

    head = await shared_client.head(address.format(id=user["id"]))
    get = await shared_client.get(address.format(id=user["id"]))

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/v1/",
        "/api/v1/nothing",
        "/api/v1/users/",
        "//api/v1/users",
        "/api//v1/users",
        "/API/V1/users",
        "/api/v1/users/{id}/",
        "/api/v1/users/{id}/nothing",
        "/api/v1/users/{id}%2Frestore%2F",
        "/api/health",
        "/api/health/live/",
        "/docs/",
        "/favicon.ico",
        "/%00",
        "/%FF",
        "/api/v1/users/..%2F..%2Fetc/passwd",
        "/" + "a/" * 5000,
    ],
)
async def test_other_addresses_are_not_found(shared_client: httpx.AsyncClient, path: str) -> None:
    user = await make_user(shared_client)

    response = await shared_client.get(path.format(id=user["id"]))

    expect_problem(response, 404, "not_found")
