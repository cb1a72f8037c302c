"""`user-service migrate`: brings the database to a revision."""

from collections.abc import Mapping

from user_service.cli.database import open_database
from user_service.errors import ConfigurationError
from user_service.postgres import migrations


def run(environ: Mapping[str, str], *, to: str, down: bool) -> int:
    """Prints the revision that the database is at then. Raises ConfigurationError, CommandFailed."""
    if down and to == "head":
        raise ConfigurationError("migrate --down needs --to REVISION; `--to base` removes every table.")
    with open_database(environ) as settings:
        assert settings.database_url is not None
        (migrations.downgrade if down else migrations.upgrade)(settings.database_url, to)
        print(f"The database is at revision {migrations.current(settings.database_url) or 'base'}.")
    return 0
