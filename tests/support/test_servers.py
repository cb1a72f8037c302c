"""The servers that other tests rely on."""

import asyncio

import asyncpg
import pytest
import redis

from support.servers import PostgresServer, RedisServer


async def fetch(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_a_database_copies_its_template(postgres: PostgresServer) -> None:
    asyncio.run(fetch(postgres.create_database("pattern"), "CREATE TABLE seen ()"))

    copy = postgres.create_database("copy", template="pattern")

    assert asyncio.run(fetch(copy, "SELECT count(*) FROM seen")) == 0


def test_a_restart_keeps_data_and_url(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database("kept")
    first = own_postgres.pid

    own_postgres.restart()

    assert own_postgres.pid != first
    assert asyncio.run(fetch(url, "SELECT current_database()")) == "kept"


def test_a_stopped_postgres_refuses(own_postgres: PostgresServer) -> None:
    own_postgres.stop()

    with pytest.raises(OSError, match=r"No such file|refused"):
        asyncio.run(fetch(own_postgres.url("postgres"), "SELECT 1"))


def test_redis_starts_empty_and_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.set("key", "value")


def test_a_paused_redis_is_silent_until_it_is_resumed(own_redis: RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url, socket_timeout=0.2) as client:
        own_redis.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        own_redis.resume()
        assert client.ping()
