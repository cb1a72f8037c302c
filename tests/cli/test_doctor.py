"""`user-service doctor`: what it finds wrong, and what to do about it."""

from pathlib import Path

import pytest

from support.process import RunCommand
from support.servers import PostgresServer, RedisServer
from support.settings import ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY
from user_service.postgres.migrations import downgrade


def test_doctor_finds_nothing_wrong(run: RunCommand, database_url: str, redis_url: str) -> None:
    status, text = run("doctor", DATABASE_URL=database_url, REDIS_URL=redis_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 0
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["ok", name] for name in ("settings", "database", "migrations", "keys", "redis", "scim")
    ]


def test_doctor_on_the_embedded_database_changes_nothing(run: RunCommand, tmp_path: Path) -> None:
    status, text = run("doctor")

    assert status == 0
    assert "embedded" in text
    assert not (tmp_path / "data").exists()


def test_doctor_does_not_register_keys(run: RunCommand, database_url: str, postgres: PostgresServer) -> None:
    run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert postgres.execute(f'\\c "{database_url}"\nSELECT count(*) FROM service_meta').strip() == "0"


def failures(text: str) -> dict[str, str]:
    """What failed, and what is said of it."""
    found = [line.split(maxsplit=2) for line in text.splitlines() if line.startswith("FAIL")]
    return {name: said for _, name, said in found}


def test_doctor_says_what_to_do_about_settings(run: RunCommand) -> None:
    status, text = run("doctor", APP_ENV="production", PORT="many")

    assert status == 1
    assert "user-service keys new" in text
    assert "PORT: expected a whole number" in text


def test_doctor_says_what_to_do_without_a_database(run: RunCommand) -> None:
    status, text = run("doctor", DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/x", ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "check DATABASE_URL" in failures(text)["database"]
    assert failures(text).keys() == {"database", "migrations", "keys"}
    assert "hunter2" not in text


def test_doctor_says_to_migrate(run: RunCommand, empty_database_url: str) -> None:
    status, text = run("doctor", DATABASE_URL=empty_database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "run `user-service migrate`" in failures(text)["migrations"]


def test_doctor_says_why_the_migrations_are_not_checked(
    run: RunCommand, database_url: str, postgres: PostgresServer
) -> None:
    postgres.execute("CREATE ROLE stranger LOGIN")
    try:
        status, text = run("doctor", DATABASE_URL=database_url.replace("postgres@", "stranger@", 1))
    finally:
        postgres.execute("DROP ROLE stranger")

    assert status == 1
    assert "make it the owner of the database" in failures(text)["migrations"]


def test_doctor_says_to_migrate_what_was_taken_back(run: RunCommand, database_url: str) -> None:
    downgrade(database_url, "base")

    status, text = run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "run `user-service migrate`" in failures(text)["migrations"]


def test_doctor_is_content_with_a_newer_database(run: RunCommand, database_url: str, postgres: PostgresServer) -> None:
    postgres.execute(f"\\c \"{database_url}\"\nUPDATE alembic_version SET version_num = '9999'")

    status, text = run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 0
    assert "a release after this one" in text


def test_doctor_says_which_key_is_wrong(run: RunCommand, database_url: str, postgres: PostgresServer) -> None:
    postgres.execute(
        f"\\c \"{database_url}\"\nINSERT INTO service_meta (name, value) VALUES ('encryption-key:k1', 'another')"
    )

    status, text = run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=OTHER_ENCRYPTION_KEY)

    assert status == 1
    assert "Restore the original key" in failures(text)["keys"]
    assert OTHER_ENCRYPTION_KEY.partition(":")[2] not in text


def test_doctor_says_what_to_do_without_redis(run: RunCommand, database_url: str, own_redis: RedisServer) -> None:
    own_redis.stop()

    status, text = run("doctor", DATABASE_URL=database_url, REDIS_URL=own_redis.url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "check REDIS_URL" in failures(text)["redis"]


def test_a_password_that_redis_refuses_is_found(run: RunCommand, own_redis: RedisServer) -> None:
    own_redis.command("CONFIG SET requirepass sesame")

    status, text = run("doctor", REDIS_URL=own_redis.url)

    assert status == 1
    assert failures(text).keys() == {"redis"}


@pytest.mark.parametrize("url", ["redis://:hunter2@h/0?socket_timeout=soon", "redis://:hunter2@h:99999"])
def test_doctor_refuses_a_redis_url_that_makes_no_sense(run: RunCommand, url: str) -> None:
    status, text = run("doctor", REDIS_URL=url)

    assert status == 1
    assert "REDIS_URL is not a URL" in failures(text)["redis"]
    assert "hunter2" not in text
