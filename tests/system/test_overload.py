"""More than the service can do: it says so, and goes on with what it has begun."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support.api import create_user, user_url
from support.application import running
from support.live_server import LiveServer, live
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually

SLOW_WRITES = """
CREATE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION wait_long();
"""
ACTIVE = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = '{}' AND state <> 'idle' AND application_name = 'user-service'"
)
PATIENCE_SECONDS = 120.0


@pytest.fixture
def database(postgres: PostgresServer, migrated_template: str) -> Iterator[str]:
    """A database where an update takes ten minutes."""
    name = f"slow_{uuid4().hex[:12]}"
    postgres.create_database(name, template=migrated_template)
    postgres.execute(f"\\connect {name}\n{SLOW_WRITES}")
    yield name
    postgres.drop_database(name)


def wait_for_active(postgres: PostgresServer, database: str, expected: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while int(postgres.execute(ACTIVE.format(database))) != expected:
        assert time.monotonic() < deadline, f"never {expected} statements at work"
        time.sleep(0.05)


def make(server: LiveServer) -> str:
    with server.client() as client:
        return user_url(create_user(client))


def change(server: LiveServer, url: str) -> tuple[int, str, str | None]:
    with server.client() as client:
        response = client.patch(url, json={"given_name": "Ada"})
    return response.status_code, response.json()["code"], response.headers.get("retry-after")


def hold(
    pool: ThreadPoolExecutor, server: LiveServer, urls: list[str], postgres: PostgresServer, database: str
) -> list[Future[tuple[int, str, str | None]]]:
    """Changes that hang, each in a statement of its own: those that begin together would share one."""
    held = []
    for number, url in enumerate(urls, 1):
        held.append(pool.submit(change, server, url))
        wait_for_active(postgres, database, number)
    return held


def test_a_request_past_its_deadline_is_given_up_down_to_its_statement(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    settings = make_settings(postgres.url(database), tmp_path, request_timeout=2, database_timeout=300)

    with live(settings) as server:
        url = make(server)
        refusal = change(server, url)
        # The statement would sleep for ten minutes, and its own timeout is five.
        wait_for_active(postgres, database, 0)
        with server.client() as client:
            after = client.get(url, headers={"Cache-Control": "no-cache", "X-API-Key": settings.internal_api_key[0]})

    assert refusal == (503, "request_timed_out", "1")
    assert after.json()["version"] == 1


def test_requests_over_the_bound_are_shed_and_probes_are_not(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    settings = make_settings(
        postgres.url(database), tmp_path, max_in_flight=3, request_timeout=12, database_timeout=300
    )

    with live(settings) as server, ThreadPoolExecutor(3) as pool:
        urls = [make(server) for _ in range(3)]
        held = hold(pool, server, urls, postgres, database)
        shed = change(server, urls[0])
        with server.client() as client:
            probes = [client.get(f"/api/health/{probe}").status_code for probe in ("live", "ready")]
            scraped = client.get("/metrics")
        finished = [future.result() for future in held]
        again = status_of_read(server, urls[0])

    assert shed == (503, "overloaded", "1")
    assert probes == [200, 200]
    assert scraped.status_code == 200
    assert finished == [(503, "request_timed_out", "1")] * 3
    assert again == 200


def test_cached_reads_go_on_while_as_many_writes_as_are_allowed_hang(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    settings = make_settings(
        postgres.url(database), tmp_path, max_in_flight=3, request_timeout=12, database_timeout=300
    )

    with live(settings) as server, ThreadPoolExecutor(3) as pool:
        urls = [make(server) for _ in range(4)]
        other = urls.pop()
        assert status_of_read(server, urls[0]) == 200
        held = hold(pool, server, urls, postgres, database)
        cached = [status_of_read(server, urls[0]) for _ in range(5)]
        uncached = status_of_read(server, other)
        with server.client() as client:
            fresh = client.get(urls[0], headers={"Cache-Control": "no-cache"}).status_code
            stranger = client.get(urls[0], headers={"X-API-Key": "another-key-than-those"}).status_code
        for future in held:
            future.result()

    assert cached == [200] * 5
    assert (uncached, fresh, stranger) == (503, 503, 401)


async def test_reads_that_redis_answers_go_on_too(database_url: str, redis_url: str, tmp_path: Path) -> None:
    settings = make_settings(database_url, tmp_path, redis_url=redis_url)
    async with running(settings) as one, running(settings) as other:
        path, unknown, third = await one.make(), await one.make(), await one.make()
        # A value of Redis is believed once a read of PostgreSQL has told its time.
        await other.get(third)
        await one.get(path)
        await eventually(lambda: one.is_cached(path))
        shared: Any = other.resources.cache
        shared.shared.budget_seconds = 30.0
        other.application.max_in_flight = 0
        responses = [await other.get(path), await other.get(unknown)]

    assert [response.status_code for response in responses] == [200, 503]


def status_of_read(server: LiveServer, url: str) -> int:
    with server.client() as client:
        return client.get(url).status_code
