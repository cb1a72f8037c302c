"""The command line: what it says, and its exit status (0 fine, 1 failed, 2 wrong usage or settings)."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.process import command
from support.servers import PostgresServer, RedisServer
from support.settings import API_KEY, ENCRYPTION_KEY, OTHER_ENCRYPTION_KEY
from user_service.cli.main import main
from user_service.encryption.cipher import parse_keys
from user_service.postgres.migrations import downgrade, head

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command with these settings alone; gives its status and what it said."""

    def run_command(*arguments: str, **environ: str) -> tuple[int, str]:
        for name in os.environ:
            monkeypatch.delenv(name)
        given = {"DATA_DIR": str(tmp_path / "data"), "SECRETS_DIR": str(tmp_path / "none"), **environ}
        for name, text in given.items():
            monkeypatch.setenv(name, text)
        status = main(arguments)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run_command


@pytest.mark.parametrize("arguments", [[], ["fly"], ["keys", "old"], ["serve", "--fast"]])
def test_wrong_usage_is_reported(run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)

    assert exit_.value.code == 2
    assert "usage: user-service" in capsys.readouterr().err


def test_keys_new_makes_another_key_each_time(run: Run) -> None:
    (first, one), (second, other) = run("keys", "new"), run("keys", "new")

    keys = parse_keys(f"{one.strip()},{other.strip()}")
    assert (first, second) == (0, 0)
    assert [len(key) for key in keys.values()] == [32, 32]


def test_migrate_goes_up_down_and_up(run: Run, empty_database_url: str) -> None:
    up = run("migrate", DATABASE_URL=empty_database_url)
    again = run("migrate", DATABASE_URL=empty_database_url)
    down = run("migrate", "--down", "--to", "base", DATABASE_URL=empty_database_url)
    up_again = run("migrate", "--to", head(), DATABASE_URL=empty_database_url)

    assert up == again == up_again == (0, f"The database is at revision {head()}.\n")
    assert down == (0, "The database is at revision base.\n")


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "said"),
    [
        (["--down"], {}, 2, "needs --to REVISION"),
        (["--to", "nonsense"], {}, 1, "The revisions of this release go up to"),
        ([], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, 1, "Check DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:99999/x"}, 1, "Check DATABASE_URL"),
        ([], {"DATABASE_URL": "hunter2"}, 2, "DATABASE_URL: expected a URL"),
    ],
)
def test_migrate_says_why_it_failed(
    run: Run, database_url: str, arguments: list[str], environ: dict[str, str], status: int, said: str
) -> None:
    found, text = run("migrate", *arguments, **{"DATABASE_URL": database_url, **environ})

    assert (found, said in text) == (status, True), text
    assert "Traceback" not in text
    assert "hunter2" not in text


def test_migrate_says_what_postgresql_refused(run: Run, empty_database_url: str, postgres: PostgresServer) -> None:
    postgres.execute("CREATE ROLE reader LOGIN")
    try:
        status, text = run("migrate", DATABASE_URL=empty_database_url.replace("postgres@", "reader@", 1))
    finally:
        postgres.execute("DROP ROLE reader")

    assert status == 1
    assert "permission denied" in text


def test_doctor_finds_nothing_wrong(run: Run, database_url: str, redis_url: str) -> None:
    status, text = run("doctor", DATABASE_URL=database_url, REDIS_URL=redis_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 0
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["ok", name] for name in ("settings", "database", "migrations", "keys", "redis")
    ]


def test_doctor_on_the_embedded_database_changes_nothing(run: Run, tmp_path: Path) -> None:
    status, text = run("doctor")

    assert status == 0
    assert "embedded" in text
    assert not (tmp_path / "data").exists()


def test_doctor_does_not_register_keys(run: Run, database_url: str, postgres: PostgresServer) -> None:
    run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert postgres.execute(f'\\c "{database_url}"\nSELECT count(*) FROM service_meta').strip() == "0"


def failures(text: str) -> dict[str, str]:
    """What failed, and what is said of it."""
    found = [line.split(maxsplit=2) for line in text.splitlines() if line.startswith("FAIL")]
    return {name: said for _, name, said in found}


def test_doctor_says_what_to_do_about_settings(run: Run) -> None:
    status, text = run("doctor", APP_ENV="production", PORT="many")

    assert status == 1
    assert "user-service keys new" in text
    assert "PORT: expected a whole number" in text


def test_doctor_says_what_to_do_without_a_database(run: Run) -> None:
    status, text = run("doctor", DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/x", ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "check DATABASE_URL" in failures(text)["database"]
    assert failures(text).keys() == {"database", "migrations", "keys"}
    assert "hunter2" not in text


def test_doctor_says_to_migrate(run: Run, empty_database_url: str) -> None:
    status, text = run("doctor", DATABASE_URL=empty_database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "run `user-service migrate`" in failures(text)["migrations"]


def test_doctor_says_to_migrate_what_was_taken_back(run: Run, database_url: str) -> None:
    downgrade(database_url, "base")

    status, text = run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "run `user-service migrate`" in failures(text)["migrations"]


def test_doctor_is_content_with_a_newer_database(run: Run, database_url: str, postgres: PostgresServer) -> None:
    postgres.execute(f"\\c \"{database_url}\"\nUPDATE alembic_version SET version_num = '9999'")

    status, text = run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 0
    assert "a release after this one" in text


def test_doctor_says_which_key_is_wrong(run: Run, database_url: str, postgres: PostgresServer) -> None:
    postgres.execute(
        f"\\c \"{database_url}\"\nINSERT INTO service_meta (name, value) VALUES ('encryption-key:k1', 'another')"
    )

    status, text = run("doctor", DATABASE_URL=database_url, ENCRYPTION_KEY=OTHER_ENCRYPTION_KEY)

    assert status == 1
    assert "Restore the original key" in failures(text)["keys"]
    assert OTHER_ENCRYPTION_KEY.partition(":")[2] not in text


def test_doctor_says_what_to_do_without_redis(run: Run, database_url: str, own_redis: RedisServer) -> None:
    own_redis.stop()

    status, text = run("doctor", DATABASE_URL=database_url, REDIS_URL=own_redis.url, ENCRYPTION_KEY=ENCRYPTION_KEY)

    assert status == 1
    assert "check REDIS_URL" in failures(text)["redis"]


def test_a_password_that_redis_refuses_is_found(run: Run, own_redis: RedisServer) -> None:
    own_redis.command("CONFIG SET requirepass sesame")

    status, text = run("doctor", REDIS_URL=own_redis.url)

    assert status == 1
    assert failures(text).keys() == {"redis"}


def test_serve_refuses_wrong_settings_at_once(run: Run) -> None:
    status, text = run("serve", APP_ENV="production", INTERNAL_API_KEY="hunter2")

    assert status == 2
    assert "DATABASE_URL (or POSTGRES_HOST)" in text
    assert "hunter2" not in text


def test_serve_refuses_the_wrong_key_with_the_remedy(
    tmp_path: Path, database_url: str, postgres: PostgresServer
) -> None:
    postgres.execute(
        f"\\c \"{database_url}\"\nINSERT INTO service_meta (name, value) VALUES ('blind-index-key', 'another')"
    )

    result = command(tmp_path, "serve", DATABASE_URL=database_url, PORT="0")

    assert result.returncode == 2
    assert "BLIND_INDEX_KEY" in result.stderr
    assert "Traceback" not in result.stderr
    assert ENCRYPTION_KEY.partition(":")[2] not in result.stderr
    assert API_KEY not in result.stderr


def test_serve_says_that_its_port_is_taken(tmp_path: Path, database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        result = command(tmp_path, "serve", DATABASE_URL=database_url, HOST="127.0.0.1", PORT=port)

    assert result.returncode == 1
    assert "address already in use" in result.stderr


@pytest.mark.parametrize("url", ["redis://:hunter2@h/0?socket_timeout=soon", "redis://:hunter2@h:99999"])
def test_doctor_refuses_a_redis_url_that_makes_no_sense(run: Run, url: str) -> None:
    status, text = run("doctor", REDIS_URL=url)

    assert status == 1
    assert "REDIS_URL is not a URL" in failures(text)["redis"]
    assert "hunter2" not in text


def test_serve_refuses_it_too(tmp_path: Path, database_url: str) -> None:
    result = command(tmp_path, "serve", DATABASE_URL=database_url, REDIS_URL="redis://:hunter2@h:99999", PORT="0")

    assert result.returncode == 2
    assert "REDIS_URL is not a URL" in result.stderr
    assert "hunter2" not in result.stderr
