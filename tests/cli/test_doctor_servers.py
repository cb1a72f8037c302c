"""What doctor says of a replica, a Redis Cluster and a Redis whose user may too little."""

from pathlib import Path

import pytest

from support.application import running, started
from support.process import command
from support.servers import PostgresServer, RedisServer
from support.settings import make_settings
from user_service.app import Application
from user_service.bootstrap import Resources

DOCUMENT = Path(__file__).parents[2] / "docs/connections.md"
# What docs/connections.md gives to the user of Redis behind `on` and the password.
DOCUMENTED = next(
    line.split(maxsplit=5)[5] for line in DOCUMENT.read_text().splitlines() if line.startswith("ACL SETUSER")
)
PERMITTED = DOCUMENTED.partition("invalidations ")[2]


def findings(folder: Path, **environ: str) -> tuple[int, str]:
    done = command(folder, "doctor", **environ)
    return done.returncode, done.stdout


def test_a_replica_that_is_a_primary_is_named(database_url: str, own_postgres: PostgresServer, tmp_path: Path) -> None:
    other = own_postgres.create_database("other")
    away = "postgresql://u@127.0.0.1:1/x"

    same = findings(tmp_path, DATABASE_URL=database_url, DATABASE_READ_URL=database_url)
    empty = findings(tmp_path, DATABASE_URL=database_url, DATABASE_READ_URL=other)
    gone = findings(tmp_path, DATABASE_URL=database_url, DATABASE_READ_URL=away)

    assert same[0] == empty[0] == gone[0] == 1
    assert "this server is no replica" in same[1]
    assert "no tables of the service" in empty[1]
    assert "check DATABASE_READ_URL" in gone[1]


def test_a_server_that_takes_no_writes_is_named(database_url: str, postgres: PostgresServer, tmp_path: Path) -> None:
    name = database_url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')

    status, text = findings(tmp_path, DATABASE_URL=database_url)

    assert status == 1
    assert "takes no writes: default_transaction_read_only is on" in text


def test_a_redis_cluster_is_not_supported(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, "--cluster-enabled", "yes", port=True)
    server.start()
    try:
        status, text = findings(tmp_path, DATABASE_URL=database_url, REDIS_URL=server.url)
    finally:
        server.stop()

    assert status == 1
    assert "Redis Cluster, which is not supported" in text


@pytest.fixture
def limited_url(own_redis: RedisServer) -> str:
    """A Redis whose user `service` may use the keys and no channel."""
    own_redis.command(f"ACL SETUSER service on >pass ~user-service:* resetchannels {PERMITTED}")
    return own_redis.url.replace("unix://", "unix://service:pass@")


def test_an_acl_without_the_channel_is_named_with_the_remedy(
    database_url: str, limited_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    lacking = findings(tmp_path, DATABASE_URL=database_url, REDIS_URL=limited_url)
    own_redis.command(f"ACL SETUSER service on >pass {DOCUMENTED}")
    fine = findings(tmp_path, DATABASE_URL=database_url, REDIS_URL=limited_url)

    assert lacking[0] == 1
    assert "&user-service:invalidations" in lacking[1]
    assert fine[0] == 0, fine[1]


def test_an_acl_that_is_too_small_for_the_rate_limits_is_named(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    own_redis.command(f"ACL SETUSER service reset on >pass {DOCUMENTED.replace(' +time', '')}")
    url = own_redis.url.replace("unix://", "unix://service:pass@")
    status, text = findings(tmp_path, DATABASE_URL=database_url, REDIS_URL=url)

    assert status == 1
    assert "lacks a permission" in text
    assert "+time" in text


async def test_the_log_says_why_an_invalidation_was_refused(
    database_url: str, limited_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="user_service")
    async with running(make_settings(database_url, tmp_path, redis_url=limited_url)) as client:
        client.resources.cache.shared.budget_seconds = 30.0  # type: ignore[attr-defined]
        path = await client.make()
        await client.patch(path, json={"given_name": "Ada"})
        await client.patch(path, json={"given_name": "Grace"})
        errors = dict(client.resources.metrics.cache_errors.values)

    refusals = [record for record in caplog.records if record.message.startswith("Redis refuses invalidations")]
    without = [record for record in caplog.records if record.message == "going on without the local cache"]
    assert len(refusals) == 1
    assert "channel" in refusals[0].reason  # type: ignore[attr-defined]
    assert len(without) == 1
    assert without[0].reason.startswith("NoPermissionError: ")  # type: ignore[attr-defined]
    assert errors[("publish",)] == 2


async def test_the_documented_acl_is_enough_for_everything(
    database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    own_redis.command(f"ACL SETUSER service reset on >pass {DOCUMENTED}")
    url = own_redis.url.replace("unix://", "unix://service:pass@")
    settings = make_settings(database_url, tmp_path, redis_url=url, rate_limit_internal_max=1000)
    async with started(Application(Resources(settings, rate_limit_budget_seconds=30))) as client:
        client.resources.cache.shared.budget_seconds = 30.0  # type: ignore[attr-defined]
        path = await client.make()
        await client.get(path)
        await client.patch(path, json={"given_name": "Ada"})
        await client.get(path)
        cleared = await client.delete("/api/v1/cache")
        limited = await client.get(path)
        errors = dict(client.resources.metrics.cache_errors.values)
        limit_errors = dict(client.resources.metrics.rate_limit_errors.values)
    log = own_redis.command("ACL LOG")

    assert cleared.status_code == 200
    assert "ratelimit" in limited.headers
    assert not any(errors.values()), errors
    assert not any(limit_errors.values()), limit_errors
    assert log == b"*0\r\n"
