"""AWS Lambda: one application for each execution environment, whatever the payload."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import asyncpg

from support.api import USERS
from support.doors import door_environ, lambda_door
from support.event_sink import Sink
from support.lambda_payloads import function_url, http_api, http_api_stage, rest_api
from support.settings import API_KEY

KEY = {"x-api-key": API_KEY}
JSON = {**KEY, "content-type": "application/json"}


def list_connections(database_url: str) -> set[tuple[int, str]]:
    async def ask() -> set[tuple[int, str]]:
        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch(
                "SELECT pid, backend_start::text FROM pg_stat_activity"
                " WHERE application_name = 'user-service' AND datname = current_database()"
            )
        finally:
            await connection.close()
        return {tuple(row) for row in rows}

    return asyncio.run(ask())


def test_connections_outlive_the_invocation_that_opened_them(database_url: str, tmp_path: Path) -> None:
    with lambda_door(tmp_path, http_api, **door_environ(database_url)) as door:
        door.ask("POST", USERS, JSON, b'{"email": "ada@example.org"}')
        door.ask("GET", USERS, KEY, b"")
        first = list_connections(database_url)
        for _ in range(10):
            assert door.ask("GET", USERS, KEY, b"").status == 200
        assert list_connections(database_url) == first
        assert len(first) > 0
    assert list_connections(database_url) == set()


def test_payloads_of_all_kinds_reach_one_environment(database_url: str, tmp_path: Path) -> None:
    with lambda_door(tmp_path, http_api, **door_environ(database_url)) as door:
        made = []
        for number, payload in enumerate((http_api, http_api_stage, function_url, rest_api)):
            body = json.dumps({"email": f"user-{number}@example.org"}).encode()
            response: dict[str, Any] = door.invoke(payload("POST", USERS, JSON, body))
            assert response["statusCode"] == 201, response
            assert response["isBase64Encoded"] is False
            made.append(json.loads(response["body"])["id"])
        listed = json.loads(door.ask("GET", USERS, KEY, b"").body)
    assert [user["id"] for user in listed["items"]] == made


def test_headers_with_several_values_arrive_joined(database_url: str, tmp_path: Path) -> None:
    with lambda_door(tmp_path, rest_api, **door_environ(database_url)) as door:
        made = door.ask("POST", USERS, JSON, b'{"email": "ada@example.org"}')
        event = rest_api("GET", urljoin(USERS, made.headers["location"]), KEY, b"")
        event["multiValueHeaders"]["If-None-Match"] = ['"7"', '"1"']
        assert door.invoke(event)["statusCode"] == 304


def test_a_location_leads_behind_the_stage(database_url: str, tmp_path: Path) -> None:
    with lambda_door(tmp_path, http_api_stage, **door_environ(database_url)) as door:
        for method, path in (("POST", USERS), ("PUT", f"{USERS}/by-external-id/row%201")):
            made = door.ask(method, path, JSON, json.dumps({"email": f"{method}@example.org"}).encode())
            location = urljoin(f"/prod{path}", made.headers["location"])
            assert location == f"/prod{USERS}/{json.loads(made.body)['id']}"
            assert door.ask("GET", location.removeprefix("/prod"), KEY, b"").body == made.body


SCHEDULED = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-01-12T21:05:07Z",
    "region": "eu-west-1",
    "resources": ["arn:aws:events:eu-west-1:123456789012:rule/every-minute"],
    "detail": {},
}
PINGS = [
    SCHEDULED,
    {**SCHEDULED, "source": "aws.scheduler"},
    {},
    None,
    {"warmup": True},
    {"warmer": True, "concurrency": 3},
    {"source": "serverless-plugin-warmup"},
    {"ping": "pong"},
    {"keep-alive": 1},
    "warm-up",
    [],
]


def test_a_schedule_or_a_warm_up_relays_what_waits(database_url: str, tmp_path: Path, sink: Sink) -> None:
    with lambda_door(tmp_path, http_api, **door_environ(database_url)) as door:
        made = door.ask("POST", USERS, JSON, b'{"email": "ada@example.org"}')
    with lambda_door(tmp_path, http_api, **door_environ(database_url), K_SINK=sink.url) as door:
        for ping in PINGS:
            assert door.invoke(ping) == {"statusCode": 204}
        assert door.ask("GET", USERS, KEY, b"").status == 200

    assert [received.user_id for received in sink.taken] == [json.loads(made.body)["id"]]


def test_a_ping_while_the_database_is_away_is_no_error(tmp_path: Path) -> None:
    with lambda_door(tmp_path, http_api, **door_environ("postgresql://nobody@127.0.0.1:9/none")) as door:
        assert door.invoke({}) == {"statusCode": 204}


def test_what_an_invocation_commits_is_relayed_before_it_ends(database_url: str, tmp_path: Path, sink: Sink) -> None:
    with lambda_door(tmp_path, function_url, **door_environ(database_url), K_SINK=sink.url) as door:
        made = door.ask("POST", USERS, JSON, b'{"email": "ada@example.org"}')
        assert [received.user_id for received in sink.taken] == [json.loads(made.body)["id"]]


def test_a_database_that_is_away_at_the_start_is_answered_503(tmp_path: Path) -> None:
    environ = door_environ("postgresql://nobody@127.0.0.1:9/none")
    with lambda_door(tmp_path, http_api, **environ) as door:
        response = door.ask("GET", USERS, KEY, b"")
        assert response.status == 503
        assert response.headers["retry-after"]
