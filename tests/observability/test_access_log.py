"""The access log: what a line holds, in both formats, and at which level."""

import asyncio
import io
import json
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, user_url
from support.process import ServiceProcess, serving
from support.servers import PostgresServer
from user_service.observability.access_log import AccessLog

LINE = {
    "method": "GET",
    "route": "/api/v1/users",
    "status": 200,
    "milliseconds": 1.5,
    "rows": 3,
    "request_id": "a1",
    "trace_id": "0af7651916cd43dd8448eb211c80319c",
    "principal": "api_key",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(stream: io.StringIO, *statuses: int, level: str = "info", log_format: str = "text") -> list[str]:
    """The lines of answers with these statuses."""

    async def write() -> None:
        log = AccessLog(level=level, log_format=log_format, stream=stream)
        for status in statuses:
            log.write({**LINE, "status": status})
        log.flush()

    asyncio.run(write())
    return stream.getvalue().splitlines()


@pytest.fixture(scope="module")
def service(
    postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    url = postgres.create_database("logs", template=migrated_template)
    with serving(tmp_path_factory.mktemp("logs"), DATABASE_URL=url, APP_ENV="production") as service:
        yield service
    postgres.drop_database("logs")


def find_line(service: ServiceProcess, response: httpx.Response) -> dict[str, object]:
    request_id = response.headers["x-request-id"]
    service.wait_for(request_id)
    (line,) = [line for line in service.lines() if line.get("request_id") == request_id]
    return line


def test_a_request_is_one_line_with_ids_route_and_rows(service: ServiceProcess) -> None:
    with service.client() as client:
        for _ in range(2):
            create_user(client, given_name="Emmy", family_name="Noether")
        response = client.get(USERS, params={"q": "noether"})

    line = find_line(service, response)

    assert line["message"] == "request"
    assert (line["method"], line["route"], line["status"], line["rows"]) == ("GET", USERS, 200, 2)
    assert line["trace_id"] == response.headers["traceparent"].split("-")[1]
    assert (line["level"], line["principal"]) == ("info", "api_key")
    assert float(str(line["milliseconds"])) > 0


def test_rows_are_the_users_that_were_read_or_changed(service: ServiceProcess) -> None:
    batch = {"items": [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(4)]}
    with service.client() as client:
        path = user_url(create_user(client))
        responses = [
            (client.get(path), 1),
            (client.patch(path, json={"locale": "de"}), 1),
            (client.get(f"{USERS}/{uuid4()}"), None),
            (client.post(f"{USERS}/batch/create", json=batch), 4),
        ]

    assert [find_line(service, response)["rows"] for response, _ in responses] == [rows for _, rows in responses]


def test_a_line_of_json_is_an_object_of_its_own() -> None:
    lines = written(io.StringIO(), 200, 503, log_format="json")

    assert [json.loads(line)["level"] for line in lines] == ["info", "error"]


def test_text_has_colours_on_a_terminal_only() -> None:
    assert "\x1b[" in written(Terminal(), 200)[0]
    assert "\x1b[" not in written(io.StringIO(), 200)[0]


def test_text_shows_what_json_does() -> None:
    (line,) = written(io.StringIO(), 404)

    for part in ("GET /api/v1/users 404 1.5 ms", "rows=3", "request_id=a1", "principal=api_key", "trace_id=0af7"):
        assert part in line


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 2), ("warning", 1), ("error", 1)])
def test_the_level_decides_which_requests_are_logged(level: str, lines: int) -> None:
    assert len(written(io.StringIO(), 200, 500, level=level)) == lines
