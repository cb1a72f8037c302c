"""What tests ask for again and again, and what every answer has to look like."""

from itertools import count
from typing import Any
from uuid import uuid4

import httpx

USERS = "/api/v1/users"
numbers = count(1)


def unique_email(domain: str = "example.org") -> str:
    return f"user-{uuid4().hex[:12]}-{next(numbers)}@{domain}"


async def make_user(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A new user, as the service answers it; with an e-mail of its own unless one is given."""
    answer = await client.post(USERS, json={"email": unique_email(), **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def url_of(user: dict[str, Any], ending: str = "") -> str:
    return f"{USERS}/{user['id']}{ending}"


def expect_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts that an answer is this problem, whole and well formed (RFC 9457); gives its document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == f"urn:user-service:problem:{code}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    return problem


def expect_fault(answer: httpx.Response, pointer: str) -> dict[str, Any]:
    """Asserts a validation problem with a fault at this place; gives the fault."""
    problem = expect_problem(answer, 422, "validation_failed")
    faults: list[dict[str, Any]] = [fault for fault in problem["errors"] if fault["pointer"] == pointer]
    assert faults, problem["errors"]
    return faults[0]
