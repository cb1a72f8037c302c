"""What a running service writes: JSON lines, one for each request, and no personal data."""

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.api import USERS, created_path
from support.process import serving
from support.servers import PostgresServer
from support.settings import API_KEY, ENCRYPTION_KEY, make_settings
from user_service.bootstrap import Resources
from user_service.cli.serve import greet
from user_service.observability.access_log import AccessLog
from user_service.observability.logging import JsonFormatter, TextFormatter

PRODUCTION = {"APP_ENV": "production"}
# Every personal value that is sent holds one of these, and so do the keys.
MARKS = ("zqmark", "+49151000", "10.9.8.7", API_KEY, ENCRYPTION_KEY.partition(":")[2], "hunter2")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def person(number: int) -> dict[str, Any]:
    return {
        "email": f"zqmark{number}@zqmark.example",
        "given_name": "Zqmark",
        "family_name": f"Zqmark{number}",
        "display_name": "zqmark",
        "phone": f"+49151000{number}",
        "preferences": {"note": "zqmark"},
    }


def use_everything(client: httpx.Client) -> int:
    """All endpoints, what goes right and what goes wrong; gives the number of requests."""
    made = client.post(USERS, json=person(1))
    assert made.status_code == 201, made.text
    path = created_path(made)
    asked: list[tuple[int, httpx.Response]] = [
        (200, client.get(path)),
        (200, client.patch(path, json={"family_name": "Zqmarkson", "email": "zqmark2@zqmark.example"})),
        (200, client.get(USERS, params={"email": "zqmark2@zqmark.example"})),
        (200, client.get(USERS, params={"q": "zqmark"})),
        (201, client.put(f"{USERS}/by-external-id/row-1", json=person(3))),
        (409, client.post(USERS, json=person(3))),
        (409, client.patch(path, json={"email": "zqmark3@zqmark.example"})),
        (422, client.post(USERS, json={**person(4), "phone": "zqmark"})),
        (422, client.post(USERS, json={**person(4), "zqmark": "zqmark"})),
        (422, client.post(USERS, json={**person(4), "email": "zqmark@@zqmark"})),
        (422, client.get(USERS, params={"zqmark": "zqmark"})),
        (422, client.get(USERS, params={"email": "zqmark"})),
        (400, client.get(USERS, params={"cursor": "zqmark"})),
        (400, client.post(USERS, content=b'{"email": "zqmark', headers={"Content-Type": "application/json"})),
        (415, client.post(USERS, content=b"zqmark", headers={"Content-Type": "text/zqmark"})),
        (413, client.post(USERS, json={"given_name": "zqmark" * 60_000})),
        (404, client.get("/zqmark/zqmark@zqmark.example")),
        (405, client.request("PUT", USERS, json=person(5))),
        (401, client.get(path, headers={"X-API-Key": "hunter2-zqmark"})),
        (200, client.post(f"{path}/suspend")),
        (409, client.post(f"{path}/suspend")),
        (200, client.post(f"{path}/activate")),
        (204, client.post(f"{path}/login")),
        (204, client.delete(path)),
        (200, client.post(f"{path}/restore")),
        (204, client.delete(path, params={"purge": "true"})),
        (200, client.get("/api/v1/cache")),
        (200, client.get("/metrics")),
        (200, client.get("/openapi.json")),
        (200, client.get("/docs")),
        (200, client.get("/api/health/live")),
        (200, client.get("/api/health/ready")),
    ]
    for number, (status, response) in enumerate(asked):
        assert response.status_code == status, (number, response.text)
    return 1 + len(asked)


def expect_no_marks(text: str) -> None:
    found = [mark for mark in MARKS if mark.lower() in text.lower()]
    assert found == [], text


def test_every_request_is_one_line_and_nothing_personal_is_in_any(database_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, **PRODUCTION) as service:
        with service.client() as client:
            requests = use_everything(client)
            metrics = client.get("/metrics").text
        status = service.stop()
    lines = service.lines()
    access = [line for line in lines if line["logger"] == "access"]

    assert status == 0
    assert len(access) == requests + 1
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert [line["message"] for line in lines if line["level"] in {"error", "critical"}] == []
    expect_no_marks(service.read_log())
    expect_no_marks(metrics)


def test_an_access_line_says_what_was_asked_and_by_what_kind_of_principal(database_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, **PRODUCTION) as service:
        with service.client() as client:
            path = created_path(client.post(USERS, json=person(1)))
            response = client.get(path, headers={"X-Request-ID": "my-request", "traceparent": TRACE})
            client.get("/api/health/live")
            client.get(path, headers={"X-API-Key": "wrong"})
            client.get("/api/v1/nowhere/at/all")
        service.stop()
    access = [line for line in service.lines() if line["logger"] == "access"]
    read = access[1]

    assert response.headers["x-request-id"] == read["request_id"] == "my-request"
    assert read["trace_id"] == TRACE[3:35]
    assert response.headers["traceparent"][:36] == TRACE[:36]
    assert isinstance(read["milliseconds"], float)
    assert [(line["method"], line["route"], line["status"], line["principal"]) for line in access] == [
        ("POST", "/api/v1/users", 201, "api_key"),
        ("GET", "/api/v1/users/{user_id}", 200, "api_key"),
        ("GET", "/api/health/live", 200, None),
        ("GET", "unmatched", 401, None),
        ("GET", "unmatched", 404, "api_key"),
    ]


def test_a_database_error_leaves_no_value_in_the_log(
    database_url: str, tmp_path: Path, postgres: PostgresServer
) -> None:
    """A constraint that the code does not know makes PostgreSQL quote the row; none of it may be passed on."""
    postgres.execute(
        f"\\c \"{database_url}\"\nALTER TABLE users ADD CONSTRAINT ck_mine CHECK (external_id <> 'zqmark-external')"
    )
    with serving(tmp_path, DATABASE_URL=database_url, **PRODUCTION) as service:
        with service.client() as client:
            response = client.post(USERS, json={**person(1), "external_id": "zqmark-external"})
        service.stop()
    errors = [line for line in service.lines() if line["level"] == "error" and line["logger"] != "access"]

    assert response.status_code == 500
    assert response.json()["code"] == "internal_error"
    assert [line["error"] for line in errors] == ["CheckViolationError"]
    assert errors[0]["request_id"] == response.headers["x-request-id"]
    expect_no_marks(service.read_log())
    expect_no_marks(response.text)


async def test_text_on_request() -> None:
    written = io.StringIO()
    log = AccessLog(log_format="text", stream=written)

    log.write({"method": "GET", "route": "/api/health/live", "status": 200, "milliseconds": 0.1})
    log.flush()

    assert written.getvalue().endswith(" info    GET /api/health/live 200 0.1 ms\n")


def test_a_logged_error_shows_its_type_and_place_in_both_formats_and_not_what_it_says() -> None:
    try:
        raise ValueError("zqmark")
    except ValueError:
        record = logging.makeLogRecord(
            {"levelname": "NOTICE", "msg": "it %s", "args": ("broke",), "exc_info": sys.exc_info()}
        )

    as_json, as_text = JsonFormatter().format(record), TextFormatter(colour=False).format(record)

    line = json.loads(as_json)
    assert (line["message"], line["error"]) == ("it broke", "ValueError")
    assert "it broke error=ValueError" in as_text
    expect_no_marks(as_json + as_text)


async def test_the_access_log_can_be_switched_off(database_url: str, tmp_path: Path) -> None:
    with_log, without = (
        Resources(make_settings(database_url, tmp_path, access_log=chosen)).access_log for chosen in (True, False)
    )

    assert with_log is not None
    assert without is None


def test_development_shows_the_generated_key_and_no_chosen_one(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greet(make_settings(database_url, tmp_path, internal_api_key=()))
    greeting = capsys.readouterr().err
    made = tmp_path / "internal-api-key"
    greet(make_settings(database_url, tmp_path, internal_api_key=(API_KEY,)))

    assert made.stat().st_mode & 0o777 == 0o600
    assert f"X-API-Key: {made.read_text().strip()}'" in greeting
    assert API_KEY not in capsys.readouterr().err
