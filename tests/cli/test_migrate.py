"""`user-service migrate`: up, down, and why it failed."""

import pytest

from support.process import RunCommand
from support.servers import PostgresServer
from user_service.postgres.migrations import head


def test_migrate_goes_up_down_and_up(run: RunCommand, empty_database_url: str) -> None:
    up = run("migrate", DATABASE_URL=empty_database_url)
    again = run("migrate", DATABASE_URL=empty_database_url)
    down = run("migrate", "--down", "--to", "base", DATABASE_URL=empty_database_url)
    up_again = run("migrate", "--to", head(), DATABASE_URL=empty_database_url)

    assert up == again == up_again == (0, f"The database is at revision {head()}.\n")
    assert down == (0, "The database is at revision base.\n")


def test_migrate_of_a_release_before_the_schema_changes_nothing(
    run: RunCommand, database_url: str, postgres: PostgresServer
) -> None:
    """A rollback by Argo CD, Flux or Helm runs the Job of the previous release."""
    postgres.execute(f"\\c \"{database_url}\"\nUPDATE alembic_version SET version_num = '9999'")

    status, text = run("migrate", DATABASE_URL=database_url)

    assert status == 0
    assert f"at revision 9999, from a release after this one, whose newest is {head()}" in text
    assert run("migrate", "--to", "9998", DATABASE_URL=database_url)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "said"),
    [
        (["--down"], {}, 2, "needs --to REVISION"),
        (["--down", "--to", "base", "--distribute"], {}, 2, "not with --down"),
        (["--distribute"], {}, 1, "CREATE EXTENSION citus"),
        (["--to", "nonsense"], {}, 1, "The revisions of this release go up to"),
        ([], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, 1, "Check DATABASE_URL"),
        ([], {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:99999/x"}, 1, "Check DATABASE_URL"),
        ([], {"DATABASE_URL": "hunter2"}, 2, "DATABASE_URL: expected a URL"),
    ],
)
def test_migrate_says_why_it_failed(
    run: RunCommand, database_url: str, arguments: list[str], environ: dict[str, str], status: int, said: str
) -> None:
    found, text = run("migrate", *arguments, **{"DATABASE_URL": database_url, **environ})

    assert (found, said in text) == (status, True), text
    assert "Traceback" not in text
    assert "hunter2" not in text


def test_migrate_says_what_postgresql_refused(
    run: RunCommand, empty_database_url: str, postgres: PostgresServer
) -> None:
    postgres.execute("CREATE ROLE reader LOGIN")
    try:
        status, text = run("migrate", DATABASE_URL=empty_database_url.replace("postgres@", "reader@", 1))
    finally:
        postgres.execute("DROP ROLE reader")

    assert status == 1
    assert "permission denied" in text
