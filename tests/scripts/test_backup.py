"""scripts/backup and scripts/restore against a real PostgreSQL."""

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest

from support.servers import PostgresServer

SCRIPTS = Path(__file__).parents[2] / "scripts"


class Scripts:
    """The two scripts with the client programs of the test's own server."""

    def __init__(self, postgres: PostgresServer) -> None:
        self.environment = dict(os.environ) | {"PG_BIN": str(postgres.cluster.programs)}

    def run(self, name: str, *arguments: str, url: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(SCRIPTS / name), *arguments]
        environment = self.environment | {"DATABASE_URL": url}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def psql(self, url: str, statement: str) -> str:
        command = [f"{self.environment['PG_BIN']}/psql", "-XAtq", "--set=ON_ERROR_STOP=1", "-d", url, "-c", statement]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def scripts(postgres: PostgresServer) -> Scripts:
    return Scripts(postgres)


@pytest.fixture
def filled(scripts: Scripts, database_url: str) -> str:
    """A migrated database with 500 users whose personal data is opaque bytes, as the service stores it."""
    scripts.psql(
        database_url,
        "INSERT INTO users (id, external_id, personal, email_verified, status, metadata, version,"
        " created_at, updated_at) SELECT gen_random_uuid(), 'external-' || n,"
        " sha256((n + 1)::text::bytea), n % 2 = 0, 'active', jsonb_build_object('n', n, 'note', 'ü|\n'), 1,"
        " now(), now() FROM generate_series(1, 500) n",
    )
    return database_url


def test_a_restore_brings_every_table_back(
    scripts: Scripts, filled: str, empty_database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "users.dump"

    saved = scripts.run("backup", str(file), url=filled)
    assert saved.returncode == 0, saved.stderr
    restored = scripts.run("restore", str(file), url=empty_database_url)
    assert restored.returncode == 0, restored.stderr

    everything = "SELECT md5(string_agg(u::text, ',' ORDER BY id)) FROM users u"
    assert scripts.psql(empty_database_url, everything) == scripts.psql(filled, everything)
    assert scripts.psql(empty_database_url, "SELECT count(*) FROM users").strip() == "500"
    assert json.loads(Path(f"{file}.json").read_text())["tables"]["users"]["rows"] == 500
    revision = "SELECT version_num FROM alembic_version"
    assert scripts.psql(empty_database_url, revision) == scripts.psql(filled, revision)


def test_what_was_written_during_the_backup_does_not_disturb_it(
    scripts: Scripts, filled: str, empty_database_url: str, tmp_path: Path
) -> None:
    """Rows and dump are of one snapshot, so that a busy database can be backed up and still be compared."""
    file = tmp_path / "users.dump"
    writer = subprocess.Popen(
        [f"{scripts.environment['PG_BIN']}/psql", "-Xq", "-d", filled],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert writer.stdin is not None
    writer.stdin.write("UPDATE users SET version = version + 1 \\watch 0.01\n")
    writer.stdin.flush()
    try:
        saved = scripts.run("backup", str(file), url=filled)
    finally:
        writer.terminate()
        writer.communicate()

    assert saved.returncode == 0, saved.stderr
    restored = scripts.run("restore", str(file), url=empty_database_url)
    assert restored.returncode == 0, restored.stderr


def test_a_restore_refuses_a_database_that_holds_something(scripts: Scripts, filled: str, tmp_path: Path) -> None:
    file = tmp_path / "users.dump"
    scripts.run("backup", str(file), url=filled)

    refused = scripts.run("restore", str(file), url=filled)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert scripts.psql(filled, "SELECT count(*) FROM users").strip() == "500"


@pytest.mark.parametrize("damage", ["dump", "description", "another row count"])
def test_a_damaged_backup_is_noticed(
    scripts: Scripts, filled: str, empty_database_url: str, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "users.dump"
    scripts.run("backup", str(file), url=filled)
    description = Path(f"{file}.json")
    if damage == "dump":
        file.write_bytes(file.read_bytes()[:-1] + b"\x00\x01")
    elif damage == "description":
        description.unlink()
    else:
        content = json.loads(description.read_text())
        content["tables"]["users"]["rows"] -= 1
        description.write_text(json.dumps(content))

    refused = scripts.run("restore", str(file), url=empty_database_url)
    assert refused.returncode == 1
    assert {"dump": "SHA-256", "description": "missing", "another row count": "users"}[damage] in refused.stderr


def test_a_backup_overwrites_nothing_and_leaves_no_half(scripts: Scripts, filled: str, tmp_path: Path) -> None:
    file = tmp_path / "users.dump"
    file.write_text("an older backup")

    assert scripts.run("backup", str(file), url=filled).returncode == 1
    assert file.read_text() == "an older backup"
    failed = scripts.run("backup", str(tmp_path / "other.dump"), url=f"postgresql:///{uuid.uuid4()}?host=/nowhere")
    assert failed.returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["users.dump"]


def test_a_password_is_in_no_argument(scripts: Scripts, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    seen = tmp_path / "seen"
    (programs / "psql").write_text(f'#!/bin/sh\necho "$* $PGPASSWORD $DATABASE_URL" >>{seen}\nexit 2\n')
    (programs / "psql").chmod(0o755)
    scripts.environment["PG_BIN"] = str(programs)

    scripts.run("backup", str(tmp_path / "dump"), url="postgresql://me:s%40cret@db.test:5432/users")
    *_, url, password = seen.read_text().split()
    assert url == "--dbname=postgresql://me@db.test:5432/users"
    assert password == "s@cret"
