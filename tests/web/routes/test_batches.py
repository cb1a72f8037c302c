from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from support.api import USERS
from support.batch_service import BatchService, creation

pytestmark = pytest.mark.anyio
LIMIT = 2 * 1024 * 1024
CREATE = f"{USERS}/batch/create"
JSON = {"Content-Type": "application/json"}


def make_batch(size: int) -> bytes:
    body = orjson.dumps({"items": [creation()]})
    return body + b" " * (size - len(body))


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


async def test_a_body_of_exactly_2_mib_is_taken(service: BatchService) -> None:
    response = await service.client.post(CREATE, content=make_batch(LIMIT), headers=JSON)

    assert response.status_code == 200


async def test_one_byte_more_is_refused_and_the_limit_named(service: BatchService) -> None:
    response = await service.client.post(CREATE, content=make_batch(LIMIT + 1), headers=JSON)

    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
    assert "2,097,152" in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    assert await service.count("users") == 0


async def test_a_body_without_a_length_is_counted(service: BatchService) -> None:
    response = await service.client.post(CREATE, content=chunks(make_batch(LIMIT + 1)), headers=JSON)
    taken = await service.client.post(CREATE, content=chunks(make_batch(LIMIT)), headers=JSON)

    assert response.status_code == 413
    assert taken.status_code == 200


async def raw_request(service: BatchService, length: bytes, parts: list[bytes]) -> tuple[int, int]:
    """The status, and how many parts of the body were asked for."""
    sent: list[dict[str, Any]] = []
    left = list(parts)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"x-api-key", service.client.headers["x-api-key"].encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": CREATE, "raw_path": CREATE.encode(), "query_string": b""}
    scope |= {"headers": [*headers, (b"content-length", length)], "http_version": "1.1", "scheme": "http"}
    await service.client.application(scope, receive, send)
    return sent[0]["status"], len(parts) - len(left)


async def test_a_declared_length_beyond_the_limit_is_refused_unread(service: BatchService) -> None:
    assert await raw_request(service, b"%d" % (LIMIT + 1), [b"{}"]) == (413, 0)


async def test_a_body_longer_than_declared_is_read_to_the_limit_only(service: BatchService) -> None:
    parts = [b" " * (LIMIT // 4)] * 40

    assert await raw_request(service, b"10", parts) == (413, 5)


async def test_more_than_1000_items_are_refused_and_the_limit_named(service: BatchService) -> None:
    refused = await service.batch("create", [creation() for _ in range(1001)])

    assert refused.status_code == 413
    assert "1,000" in refused.json()["detail"]
    assert await service.count("users") == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""),
        ({}, "/items"),
        ({"items": {}}, "/items"),
        ({"items": [], "mode": "some"}, "/mode"),
        ({"items": [], "dry_run": "yes"}, "/dry_run"),
        ({"items": [], "on_conflict": None}, "/on_conflict"),
        ({"items": [], "more": 1}, "/more"),
    ],
)
async def test_what_is_no_batch_is_refused(service: BatchService, body: Any, pointer: str) -> None:
    response = await service.client.post(CREATE, json=body)

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
    assert pointer in [fault["pointer"] for fault in response.json()["errors"]]


@pytest.mark.parametrize("verb", ["create", "update", "delete", "restore", "find"])
async def test_batches_are_posted(service: BatchService, verb: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = await service.client.request(method, f"{USERS}/batch/{verb}")
        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


async def test_batches_are_counted(service: BatchService) -> None:
    await service.batch("create", [creation(), creation()])
    await service.batch("create", [creation(email="no")])
    await service.batch("create", [creation(email="no")], mode="atomic")
    await service.batch("create", [1] * 1001)

    text = (await service.client.get("/metrics")).text

    for line in (
        'user_batch_operations_total{operation="create",status="succeeded"} 1.0',
        'user_batch_operations_total{operation="create",status="partial"} 1.0',
        'user_batch_operations_total{operation="create",status="failed"} 1.0',
        'user_batch_operations_total{operation="create",status="refused"} 1.0',
        'user_batch_size_count{operation="create"} 3.0',
        'user_batch_size_sum{operation="create"} 4.0',
        'user_batch_operation_duration_seconds_count{operation="create"} 3.0',
    ):
        assert line in text.splitlines()
