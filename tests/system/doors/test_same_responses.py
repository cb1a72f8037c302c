"""One set of requests through every front door: the answers are the same."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from support import lambda_payloads as payloads
from support.api import USERS
from support.doors import Answer, Door, door_environ, function_door, lambda_door, uvicorn_door
from support.servers import PostgresServer
from support.settings import API_KEY

JSON = {"content-type": "application/json"}
PATCH = {"content-type": "application/merge-patch+json"}
EVENT = {"content-type": "application/cloudevents+json"}
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


class Step(NamedTuple):
    """A request and the status it must have; `{id}` in the target is the id of the user made first."""

    method: str
    target: str
    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: Any = b""


def event(identity: str, **others: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": identity,
        "source": "/doors",
        "type": "org.userservice.batch.create.v1",
        "data": {"items": [{"ref": "r", "data": {"email": f"{identity}@example.org"}}]},
        **others,
    }


BINARY = {f"ce-{name}": value for name, value in event("binary").items() if name != "data"}
STEPS = [
    Step("POST", USERS, 201, JSON, {"email": "Ada@Example.ORG", "given_name": "Ädä", "metadata": {"plan": "pro"}}),
    Step("POST", USERS, 409, JSON, {"email": "ada@example.org"}),
    Step("POST", USERS, 422, JSON, {"email": "no address", "colour": "blue"}),
    Step("POST", USERS, 400, JSON, b"{"),
    Step("POST", USERS, 415, {"content-type": "text/plain"}, b"x"),
    Step("GET", f"{USERS}/{{id}}", 200),
    Step("HEAD", f"{USERS}/{{id}}", 200),
    Step("GET", f"{USERS}/{{id}}", 304, {"if-none-match": '"1"'}),
    Step("PATCH", f"{USERS}/{{id}}", 200, PATCH, {"locale": "en-GB"}),
    Step("PATCH", f"{USERS}/{{id}}", 412, {**PATCH, "if-match": '"1"'}, {"locale": "de"}),
    Step("GET", f"{USERS}?q=%C3%A4d%C3%A4&metadata.plan=pro&limit=10", 200),
    Step("GET", f"{USERS}?colour=blue", 422),
    Step("PUT", f"{USERS}/by-external-id/row%201", 201, JSON, {"email": "row@example.org"}),
    Step("PUT", f"{USERS}/by-external-id/100%2525%20%C3%BC", 201, JSON, {"email": "percent@example.org"}),
    Step("GET", f"{USERS}?external_id=100%2525%20%C3%BC", 200),
    Step("PUT", f"{USERS}/by-external-id/row%201", 200, JSON, {"email": "row@example.org", "locale": "fr"}),
    Step("POST", f"{USERS}/{{id}}/suspend", 200),
    Step("POST", f"{USERS}/{{id}}/suspend", 409),
    Step("DELETE", f"{USERS}/{{id}}", 204),
    Step("GET", f"{USERS}/{{id}}", 404),
    Step("GET", f"{USERS}/{UNKNOWN}", 404),
    Step("POST", f"{USERS}/batch/create", 207, JSON, {"items": [{"data": {"email": "x@example.org"}}, {"data": {}}]}),
    Step("POST", "/events", 200, EVENT, event("structured")),
    Step("POST", "/events", 200, EVENT, event("structured")),
    Step("POST", "/", 200, {**BINARY, **JSON}, event("binary")["data"]),
    Step("POST", "/events", 400, EVENT, event("")),
    Step("POST", "/events", 204, EVENT, event("ping", type="dev.knative.sources.ping")),
    Step("GET", "/nothing", 404),
    Step("PUT", USERS, 405, JSON, {}),
    Step("GET", USERS, 401, {"x-api-key": "wrong"}),
    Step("GET", "/api/health/live", 200),
    Step("GET", "/api/health/ready", 200),
    Step("GET", "/openapi.json", 200),
]
KEPT = frozenset(
    {"content-type", "etag", "location", "cache-control", "www-authenticate", "link", "x-content-type-options"}
)
CHANGING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|\d{4}-\d\d-\d\dT[0-9:.]+(Z|\+00:00)|00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]|(?<=\"request_id\":\")[0-9a-f]{24}"
)


def comparable(response: Answer) -> tuple[int, dict[str, str], str]:
    """The answer without what differs from one run to the next."""
    headers = {
        name: CHANGING.sub("*", value)
        for name, value in sorted(response.headers.items())
        if name in KEPT or name.startswith("ce-")
    }
    assert {"x-request-id", "traceparent"} <= set(response.headers)
    return response.status, headers, CHANGING.sub("*", response.body.decode())


def walk(door: Door) -> list[tuple[int, dict[str, str], str]]:
    """The answers to all steps, each with the status that it must have."""
    user_id, responses = "", []
    for step in STEPS:
        body = step.body if isinstance(step.body, bytes) else json.dumps(step.body).encode()
        headers = {"x-api-key": API_KEY, **step.headers}
        response = door.ask(step.method, step.target.replace("{id}", user_id), headers, body)
        assert response.status == step.status, (step, response)
        if not user_id:
            user_id = json.loads(response.body)["id"]
        responses.append(comparable(response))
    return responses


@pytest.fixture(scope="module")
def reference(
    postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tuple[int, dict[str, str], str]]]:
    """What `user-service serve` answers."""
    url = postgres.create_database("reference", template=migrated_template)
    with uvicorn_door(tmp_path_factory.mktemp("reference"), **door_environ(url)) as door:
        responses = walk(door)
    postgres.drop_database("reference")
    return responses


def opened(
    name: str, folder: Path, request: pytest.FixtureRequest, environ: dict[str, str]
) -> AbstractContextManager[Door]:
    if name == "kn func":
        return function_door(request.getfixturevalue("function_python"), folder, **environ)
    return lambda_door(folder, getattr(payloads, name), **environ)


@pytest.mark.parametrize("name", ["kn func", "http_api", "http_api_stage", "http_api_1", "function_url", "rest_api"])
def test_every_entry_point_gives_the_responses_of_uvicorn(
    name: str,
    reference: list[tuple[int, dict[str, str], str]],
    database_url: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    with opened(name, tmp_path, request, door_environ(database_url)) as door:
        responses = walk(door)
    for step, response, expected in zip(STEPS, responses, reference, strict=True):
        assert response == expected, step
