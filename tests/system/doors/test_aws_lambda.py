"""AWS Lambda: one application for each execution environment, whatever the payload."""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg

from support.api import USERS
from support.doors import environ_of, lambda_door
from support.event_sink import Sink
from support.lambda_payloads import function_url, http_api, http_api_stage, rest_api
from support.settings import API_KEY

KEY = {"x-api-key": API_KEY}
JSON = {**KEY, "content-type": "application/json"}


def connections_of(database_url: str) -> set[tuple[int, str]]:
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
    with lambda_door(tmp_path, http_api, **environ_of(database_url)) as door:
        door.ask("POST", USERS, JSON, b'{"email": "ada@example.org"}')
        door.ask("GET", USERS, KEY, b"")
        first = connections_of(database_url)
        for _ in range(10):
            assert door.ask("GET", USERS, KEY, b"").status == 200
        assert connections_of(database_url) == first
        assert len(first) > 0
    assert connections_of(database_url) == set()


def test_payloads_of_all_kinds_reach_one_environment(database_url: str, tmp_path: Path) -> None:
    with lambda_door(tmp_path, http_api, **environ_of(database_url)) as door:
        made = []
        for number, payload in enumerate((http_api, http_api_stage, function_url, rest_api)):
            body = json.dumps({"email": f"user-{number}@example.org"}).encode()
            answer: dict[str, Any] = door.invoke(payload("POST", USERS, JSON, body))
            assert answer["statusCode"] == 201, answer
            assert answer["isBase64Encoded"] is False
            made.append(json.loads(answer["body"])["id"])
        listed = json.loads(door.ask("GET", USERS, KEY, b"").body)
    assert [user["id"] for user in listed["items"]] == made


def test_headers_with_several_values_arrive_joined(database_url: str, tmp_path: Path) -> None:
    with lambda_door(tmp_path, rest_api, **environ_of(database_url)) as door:
        made = door.ask("POST", USERS, JSON, b'{"email": "ada@example.org"}')
        event = rest_api("GET", made.headers["location"], KEY, b"")
        event["multiValueHeaders"]["If-None-Match"] = ['"7"', '"1"']
        assert door.invoke(event)["statusCode"] == 304


def test_what_an_invocation_commits_is_relayed_before_it_ends(database_url: str, tmp_path: Path, sink: Sink) -> None:
    with lambda_door(tmp_path, function_url, **environ_of(database_url), K_SINK=sink.url) as door:
        made = door.ask("POST", USERS, JSON, b'{"email": "ada@example.org"}')
        assert [received.user_id for received in sink.taken] == [json.loads(made.body)["id"]]


def test_a_database_that_is_away_at_the_start_is_answered_503(tmp_path: Path) -> None:
    environ = environ_of("postgresql://nobody@127.0.0.1:9/none")
    with lambda_door(tmp_path, http_api, **environ) as door:
        answer = door.ask("GET", USERS, KEY, b"")
        assert answer.status == 503
        assert answer.headers["retry-after"]
