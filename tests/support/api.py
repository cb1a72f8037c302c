"""Requests that many tests make, and what every response has to look like."""

from itertools import count
from typing import Any
from uuid import uuid4

import httpx

USERS = "/api/v1/users"
numbers = count(1)


def unique_email(domain: str = "example.org") -> str:
    return f"user-{uuid4().hex[:12]}-{next(numbers)}@{domain}"


async def make_user(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A new user, with an e-mail of its own unless one is given."""
    return created(await client.post(USERS, json={"email": unique_email(), **fields}))


def create_user(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """`make_user` for clients that block."""
    return created(client.post(USERS, json={"email": unique_email(), **fields}))


def created(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 201, response.text
    user: dict[str, Any] = response.json()
    return user


def created_path(response: httpx.Response) -> str:
    """The path to which the `Location` of a response leads."""
    return response.url.join(response.headers["location"]).path


def user_url(user: dict[str, Any], ending: str = "") -> str:
    return f"{USERS}/{user['id']}{ending}"


def expect_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts that a response is this problem, whole and well formed (RFC 9457); gives its document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id", "errors"}
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == f"urn:user-service:problem:{code}"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]
    return problem


def expect_fault(response: httpx.Response, pointer: str) -> dict[str, Any]:
    """Asserts a validation problem with a fault at this place; gives the fault."""
    problem = expect_problem(response, 422, "validation_failed")
    faults: list[dict[str, Any]] = [fault for fault in problem["errors"] if fault["pointer"] == pointer]
    assert faults, problem["errors"]
    return faults[0]
