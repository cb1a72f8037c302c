"""kn func: the installed function behind func-python's middleware."""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from support.api import USERS
from support.doors import FunctionProcess, door_environ, function_process
from support.event_sink import Sink
from support.servers import PostgresServer
from support.settings import API_KEY
from support.waiting import PATIENCE_SECONDS
from user_service.postgres.migrations import upgrade

KEY = {"x-api-key": API_KEY}


def read_lines(log: Path) -> list[dict[str, object]]:
    """Our own lines; the middleware writes text."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def open_connections(database_url: str) -> int:
    async def ask() -> int:
        connection = await asyncpg.connect(database_url)
        try:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'user-service' AND datname = current_database()"
            )
        finally:
            await connection.close()
        return found

    return asyncio.run(ask())


def test_http_and_events_come_through_one_function_and_a_stop_closes_everything(
    function_python: Path, database_url: str, tmp_path: Path, sink: Sink
) -> None:
    environ = {**door_environ(database_url), "K_SINK": sink.url}
    with function_process(function_python, tmp_path, **environ) as function:
        function.wait_until_ready()
        with httpx.Client(base_url=function.url, headers=KEY) as client:
            assert client.get("/health/liveness").status_code == 200
            assert client.get("/api/health/ready").json()["status"] == "ok"
            assert client.post(USERS, json={"email": "ada@example.org"}).status_code == 201
            for number, write in enumerate((to_binary_event, to_structured_event)):
                data = {"items": [{"data": {"email": f"user-{number}@example.org"}}]}
                attributes = {"type": "org.userservice.batch.create.v1", "source": "/tests", "id": str(number)}
                message = write(CloudEvent(attributes, data))
                answer = client.post("/", content=message.body, headers=message.headers)
                assert (answer.status_code, answer.headers["ce-causationid"]) == (200, str(number))
            assert len(client.get(USERS).json()["items"]) == 3
        sink.wait_for(3)
        assert open_connections(database_url) > 0
        assert function.stop() == 0
        assert open_connections(database_url) == 0
        said = function.log.read_text()
        assert [line["message"] for line in read_lines(function.log)].count("the function is closed") == 1
        for trouble in ("Traceback", "was destroyed", "never retrieved", "never awaited", "ResourceWarning"):
            assert trouble not in said, said


def test_a_request_that_is_under_way_at_the_stop_is_answered(
    function_python: Path, database_url: str, tmp_path: Path
) -> None:
    with function_process(function_python, tmp_path, **door_environ(database_url)) as function:
        function.wait_until_ready()
        assert httpx.get(function.url + USERS, headers=KEY).status_code == 200
        answers: list[httpx.Response] = []
        arrived = threading.Event()

        def slowly() -> Iterator[bytes]:
            yield b'{"email": '
            arrived.set()
            stopping.wait(10)
            yield b'"ada@example.org"}'

        stopping = threading.Event()

        def ask() -> None:
            headers = {**KEY, "content-type": "application/json"}
            answers.append(httpx.post(function.url + USERS, content=slowly(), headers=headers, timeout=30))

        asking = threading.Thread(target=ask)
        asking.start()
        assert arrived.wait(10)
        function.process.send_signal(signal.SIGTERM)
        stopping.set()
        asking.join()
        assert function.process.wait(30) == 0
    assert [answer.status_code for answer in answers] == [201], function.log.read_text()


def test_ready_means_that_the_database_answers_and_fits(
    function_python: Path, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    url = own_postgres.create_database("late")
    with function_process(function_python, tmp_path, **door_environ(url)) as function:
        wait_for_answers(function)
        assert not function.is_ready()
        assert httpx.get(f"{function.url}/health/liveness").status_code == 200
        refused = httpx.get(function.url + USERS, headers=KEY)
        assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
        upgrade(url)
        function.wait_until_ready()
        assert httpx.get(function.url + USERS, headers=KEY).status_code == 200
        own_postgres.stop()
        for _ in range(400):
            if not function.is_ready():
                break
            threading.Event().wait(0.05)
        assert not function.is_ready()
        own_postgres.start()
        function.wait_until_ready()


def wait_for_answers(function: FunctionProcess) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not answers(function.url):
        assert function.process.poll() is None, function.log.read_text()
        assert time.monotonic() < deadline, function.log.read_text()
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveness").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("fault", [{"ENCRYPTION_KEY": "nonsense"}, {"APP_ENV": "production", "INTERNAL_API_KEY": "x"}])
def test_a_function_that_can_not_start_says_why_and_is_never_ready(
    function_python: Path, database_url: str, tmp_path: Path, fault: dict[str, str]
) -> None:
    with function_process(function_python, tmp_path, **{**door_environ(database_url), **fault}) as function:
        wait_for_answers(function)
        assert not function.is_ready()
        answer = httpx.get(function.url + USERS, headers=KEY)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.json()["request_id"] == answer.headers["x-request-id"] != "none"
        assert function.stop() == 0
        (line,) = [line for line in read_lines(function.log) if line["message"] == "the function can't start"]
        assert any(name in str(line["reason"]) for name in fault)
