"""The command line: what it says, and its exit status (0 fine, 1 failed, 2 wrong usage or settings)."""

import socket
from pathlib import Path

import pytest

from support.process import RunCommand, command
from support.servers import PostgresServer
from support.settings import API_KEY, ENCRYPTION_KEY


@pytest.mark.parametrize("arguments", [[], ["fly"], ["keys", "old"], ["serve", "--fast"]])
def test_wrong_usage_is_reported(run: RunCommand, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)

    assert exit_.value.code == 2
    assert "usage: user-service" in capsys.readouterr().err


def test_serve_refuses_wrong_settings_at_once(run: RunCommand) -> None:
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


def test_serve_refuses_it_too(tmp_path: Path, database_url: str) -> None:
    result = command(tmp_path, "serve", DATABASE_URL=database_url, REDIS_URL="redis://:hunter2@h:99999", PORT="0")

    assert result.returncode == 2
    assert "REDIS_URL is not a URL" in result.stderr
    assert "hunter2" not in result.stderr
