"""X-Request-ID and traceparent on every answer"""

import re

import httpx
import pytest

from support.api import USERS, make_user, user_url

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]")
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
ANSWERS = [
    ("GET", "/api/health/live", 200),
    ("GET", "/api/health/ready", 200),
    ("GET", "/metrics", 200),
    ("GET", "/openapi.json", 200),
    ("GET", USERS, 200),
    ("GET", f"{USERS}/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f", 404),
    ("GET", f"{USERS}/x", 422),
    ("POST", USERS, 415),
    ("PUT", USERS, 405),
    ("GET", "/nothing", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
async def test_every_answer_carries_them(shared_client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    headers = {"X-Request-ID": "order-7:retry/2", "traceparent": f"00-{TRACE}-{SPAN}-01"}

    response = await shared_client.request(method, path, headers=headers)

    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == ["order-7:retry/2"]
    assert response.headers["x-content-type-options"] == "nosniff"
    (traceparent,) = response.headers.get_list("traceparent")
    match = TRACEPARENT.fullmatch(traceparent)
    assert match
    assert match[1] == TRACE
    assert match[2] != SPAN
    assert traceparent.endswith("-01")


async def test_a_refused_caller_gets_them_too(shared_client: httpx.AsyncClient) -> None:
    response = await shared_client.get(USERS, headers={"X-API-Key": "wrong", "X-Request-ID": "mine"})

    assert (response.status_code, response.headers["x-request-id"]) == (401, "mine")


async def test_they_are_made_where_there_are_none(shared_client: httpx.AsyncClient) -> None:
    responses = [await shared_client.get("/api/health/live") for _ in range(2)]

    assert len({response.headers["x-request-id"] for response in responses}) == 2
    traces = {TRACEPARENT.fullmatch(response.headers["traceparent"])[1] for response in responses}  # type: ignore[index]
    assert len(traces) == 2


@pytest.mark.parametrize(
    "value",
    ["", " ", "a b", "x" * 129, "ü", "\xff\xfe", 'quote"', "{json}", "a,b", "<script>", "a\tb", "%0d%0aSet-Cookie:x"],
)
async def test_an_id_that_is_no_plain_token_is_replaced(shared_client: httpx.AsyncClient, value: str) -> None:
    user = await make_user(shared_client)

    response = await shared_client.get(user_url(user), headers=[("X-Request-ID", value.encode("latin-1"))])

    assert response.status_code == 200
    assert re.fullmatch(r"[0-9a-f]{24}", response.headers["x-request-id"])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE}-{SPAN}-01\xff",
        "x" * 10_000,
    ],
)
async def test_a_trace_context_that_is_none_begins_a_new_trace(shared_client: httpx.AsyncClient, value: str) -> None:
    response = await shared_client.get("/api/health/live", headers=[("traceparent", value.encode("latin-1"))])

    match = TRACEPARENT.fullmatch(response.headers["traceparent"])
    assert match
    assert match[1] != TRACE


async def test_a_trace_context_of_a_later_version_is_continued(shared_client: httpx.AsyncClient) -> None:
    response = await shared_client.get("/api/health/live", headers={"traceparent": f"01-{TRACE}-{SPAN}-01-what-comes"})

    assert response.headers["traceparent"].startswith(f"00-{TRACE}-")
