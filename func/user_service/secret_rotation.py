"""Secrets that change while the service runs.

The files of secrets are checked every few seconds, and the database is asked which keys are in use. A change that can't
be used is refused, and the secrets in use stay.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

from user_service.bootstrap import Resources
from user_service.encryption.key_registry import KeysRetired, check_keys
from user_service.encryption.keyring import load_keys
from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.observability.logging import log
from user_service.postgres.connector import connect_once
from user_service.postgres.failures import TRANSIENT, describe_failure, is_transient
from user_service.postgres.hosts import named_database
from user_service.postgres.pool import connect_options
from user_service.settings import Settings, SettingsSource
from user_service.values.encryption_keys import parse_encryption_keys

# The settings that are replaced while the service runs, and the variables or files that they come from.
RELOADED: Final = (
    "encryption_key",
    "blind_index_key",
    "internal_api_key",
    "api_keys",
    "event_sink_secret",
    "database_url",
    "database_read_url",
)
POSTGRES_SETTINGS: Final = ("HOST", "PORT", "DB", "USER", "USER_PASSWORD")
WATCHED: Final = (*(name.upper() for name in RELOADED), *(f"POSTGRES_{name}" for name in POSTGRES_SETTINGS))
MIN_SECONDS_BETWEEN_SEARCHES: Final = 1.0

FileState = tuple[int, ...]


class SecretFiles:
    """The files that an environment's secrets may come from."""

    def __init__(
        self, environ: Mapping[str, str], *, seconds_between_searches: float = MIN_SECONDS_BETWEEN_SEARCHES
    ) -> None:
        self.environ = dict(environ)
        source = SettingsSource(self.environ)
        self.paths = [source.file_path(name) for name in WATCHED]
        # An embedded database has a URL that no setting names.
        self.names_database = (source.text("DATABASE_URL") or source.text("POSTGRES_HOST")) is not None
        self.seconds_between_searches = seconds_between_searches
        self.next_search_at = 0.0

    def states(self) -> list[FileState | None]:
        """Device, inode, time of change and size of each file; None for a file that is not there."""
        return [file_state(path) for path in self.paths]

    def load(self) -> Settings:
        """The settings as the files are now. Raises ConfigurationError."""
        return Settings.load(self.environ)

    def find_keys(self, key_id: str) -> Mapping[str, bytes]:
        """The encryption keys as the file is now; read at most once a second, none in between."""
        if monotonic() < self.next_search_at:
            return {}
        self.next_search_at = monotonic() + self.seconds_between_searches
        try:
            text = SettingsSource(self.environ).text("ENCRYPTION_KEY")
            keys = parse_encryption_keys(text) if text is not None else {}
        except ConfigurationError:
            keys = {}
        if key_id not in keys:
            log.warning("data is sealed under a key that is not in ENCRYPTION_KEY", extra={"key_id": key_id})
        return keys


def file_state(path: Path) -> FileState | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


class SecretRotation:
    """Keeps a running service's secrets equal to its files, and its keys equal to its database's."""

    def __init__(self, resources: Resources, files: SecretFiles | None) -> None:
        self.resources = resources
        self.files = files
        self.outcomes = resources.metrics.secrets_reload
        # The states of the files when they were last applied. None: they are read in any case.
        self.applied_states: list[FileState | None] | None = None
        # The last reason that was logged for each outcome.
        self.logged_reasons: dict[str, str] = {}
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.run())

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.resources.settings.secrets_reload_seconds)
            try:
                await self.check()
            except Exception:
                log.exception("the secrets can't be checked")

    async def check(self) -> None:
        """Applies changed secrets, and compares the keys with the database."""
        if self.files is not None:
            await self.reload(self.files)
        try:
            await self.resources.verify()
        except KeysRetired as error:
            self.report("outdated", "the service can't use this database", str(error))
        except ConfigurationError as error:
            self.report("outdated", "the database is written with other keys than this replica has", str(error))
        except DatabaseUnavailable:
            pass
        else:
            self.logged_reasons.pop("outdated", None)

    async def reload(self, files: SecretFiles) -> None:
        """Applies the files if they have changed. Refused ones are tried again: the database's answer may change."""
        states = await asyncio.to_thread(files.states)
        if states == self.applied_states:
            return
        try:
            settings = self.merge(await asyncio.to_thread(files.load), names_database=files.names_database)
            if settings != self.resources.settings:
                await self.apply(settings)
                self.outcomes.add("applied")
                log.info("changed secrets are in use", extra={"active_key": self.resources.keys.cipher.active_id})
        except ConfigurationError as error:
            self.report("refused", "changed secrets are refused; the former ones stay in use", str(error))
        except DatabaseUnavailable as error:
            self.report("deferred", "changed secrets wait for the database", error.detail)
        else:
            self.applied_states = states
            self.logged_reasons.clear()

    def merge(self, settings: Settings, *, names_database: bool) -> Settings:
        """The settings in use, with the secrets of others. An embedded database's URL, which no setting has, stays.

        Raises ConfigurationError when ENCRYPTION_KEY or DATABASE_URL was removed, and when a URL names another
        database: connections that are open would go on with the former one.
        """
        current = self.resources.settings
        if settings.encryption_key is None and current.encryption_key is not None:
            raise ConfigurationError("ENCRYPTION_KEY was removed; put it back, or stop the service")
        if settings.database_url is None and names_database:
            raise ConfigurationError("DATABASE_URL (or POSTGRES_HOST) was removed; put it back, or stop the service")
        changed = {name: getattr(settings, name) for name in RELOADED}
        changed["database_url"] = settings.database_url or current.database_url
        for name in ("database_url", "database_read_url"):
            if named_database(changed[name]) != named_database(getattr(current, name)):
                raise ConfigurationError(
                    f"{name.upper()} (or POSTGRES_*) names another host, port, database or parameter. That needs a "
                    "rollout: only a user and a password are changed while the service runs"
                )
        return replace(current, **changed)

    async def apply(self, settings: Settings) -> None:
        """Passwords and API keys first: asking the database about keys may need the new password.

        Raises ConfigurationError, DatabaseUnavailable.
        """
        resources = self.resources
        current = resources.settings
        keys = load_keys(settings)
        if settings.database_url != current.database_url:
            await try_to_connect(connect_options(settings))
        if settings.database_read_url != current.database_read_url:
            await try_to_connect(connect_options(settings, url=settings.database_read_url), writes=False)
        resources.apply_settings(
            replace(settings, encryption_key=current.encryption_key, blind_index_key=current.blind_index_key)
        )
        await check_keys(resources.pool, keys)
        resources.keys.replace(keys)
        resources.apply_settings(settings)

    def report(self, outcome: str, message: str, reason: str) -> None:
        """Logs and counts a failure once, however often it is tried again."""
        if self.logged_reasons.get(outcome) != reason:
            self.logged_reasons[outcome] = reason
            self.outcomes.add(outcome)
            log.error(message, extra={"reason": reason})


async def try_to_connect(options: Mapping[str, Any], *, writes: bool = True) -> None:
    """Raises DatabaseUnavailable when a connection can't be opened, ConfigurationError when the URL can't be used."""
    try:
        connection = await connect_once(options, writes=writes)
    except (*TRANSIENT, ValueError, OverflowError) as error:
        if not is_transient(error):
            raise ConfigurationError(describe_failure(error)) from None
        raise DatabaseUnavailable(
            f"PostgreSQL does not accept the new user or password ({type(error).__name__})."
        ) from error
    await connection.close()
