"""Secrets that change while the service runs: files are looked at every few seconds, and the database is asked which
keys are still in use. What does not fit is refused, and what was there before goes on.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from user_service.encryption.cipher import parse_keys
from user_service.encryption.key_registry import KeysRetired, check_keys
from user_service.encryption.keyring import load_keys
from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.observability.logging import log
from user_service.postgres.pool import TRANSIENT, connect_options
from user_service.settings import Settings, SettingsSource

if TYPE_CHECKING:
    from user_service.bootstrap import Resources

# Settings that are taken over while the service runs, and what they are made of.
TAKEN_OVER: Final = (
    "encryption_key",
    "blind_index_key",
    "internal_api_key",
    "database_url",
    "database_read_url",
)
WATCHED: Final = (*(name.upper() for name in TAKEN_OVER), "POSTGRES_USER_PASSWORD")
SEARCH_SECONDS: Final = 1.0

Signature = tuple[tuple[int, ...] | None, ...]


class SecretFiles:
    """The files that an environment's secrets may come from."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        source = SettingsSource(self.environ)
        self.paths = [source.file_of(name) for name in WATCHED]

    def signature(self) -> Signature:
        """Differs once a file has been written, replaced, removed, or is reached through another link."""
        return tuple(map(state_of, self.paths))

    def load(self) -> Settings:
        """The settings as they are now. Raises ConfigurationError."""
        return Settings.load(self.environ)

    def encryption_keys(self) -> Mapping[str, bytes]:
        """The ring as it is now. Raises ConfigurationError."""
        text = SettingsSource(self.environ).text("ENCRYPTION_KEY")
        return parse_keys(text) if text is not None else {}


def state_of(path: Any) -> tuple[int, ...] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


class Rotation:
    """Keeps the secrets of a running service those of its files, and its keys those of its database."""

    def __init__(self, resources: "Resources", files: SecretFiles | None) -> None:
        self.resources = resources
        self.files = files
        self.outcomes = resources.metrics.secrets_reload
        # What the files were like when they were last read; at first they are read in any case.
        self.known: Signature | None = None
        # What was last said of each kind.
        self.complaints: dict[str, str] = {}
        self.search_at = 0.0
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self.watch())

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(self.resources.settings.secrets_reload_seconds)
            try:
                await self.look()
            except Exception:
                log.exception("the secrets can't be looked at")

    async def look(self) -> None:
        """Takes over what has changed, and confirms the keys with the database."""
        if self.files is not None:
            await self.read(self.files)
        try:
            await self.resources.verify()
        except KeysRetired as error:
            # Nothing that this replica could seal with: it must not write, while others may.
            self.resources.verified = False
            self.complain("outdated", "the service can't use this database", str(error))
        except ConfigurationError as error:
            self.complain("outdated", "the database is written with other keys than this replica has", str(error))
        except DatabaseUnavailable:
            pass
        else:
            self.complaints.pop("outdated", None)

    async def read(self, files: SecretFiles) -> None:
        """What is refused is tried again: a key that may not be missing now may be later, and the other way round."""
        signature = await asyncio.to_thread(files.signature)
        if signature == self.known:
            return
        try:
            settings = self.merged(await asyncio.to_thread(files.load))
            if settings != self.resources.settings:
                await self.take_over(settings)
                self.outcomes.add("applied")
                log.info("changed secrets are in use", extra={"active_key": self.resources.keys.cipher.active_id})
        except ConfigurationError as error:
            self.complain("refused", "changed secrets are refused, those before them go on", str(error))
        except DatabaseUnavailable as error:
            self.complain("deferred", "changed secrets wait for the database", error.detail)
        else:
            self.known = signature
            self.complaints.clear()

    def merged(self, settings: Settings) -> Settings:
        """The settings in use with the secrets of others. One that came from elsewhere than a setting stays."""
        current = self.resources.settings
        if settings.encryption_key is None and current.encryption_key is not None:
            raise ConfigurationError("ENCRYPTION_KEY: it is gone; put it back, or stop the service")
        taken = {name: getattr(settings, name) for name in TAKEN_OVER}
        taken["database_url"] = settings.database_url or current.database_url
        return replace(current, **taken)

    async def take_over(self, settings: Settings) -> None:
        """Passwords and API keys come first: new ones may be what it takes to ask the database about keys.

        Raises ConfigurationError, DatabaseUnavailable.
        """
        resources = self.resources
        current = resources.settings
        keys = load_keys(settings)
        if settings.database_url != current.database_url:
            await try_to_connect(settings)
        resources.use(replace(settings, encryption_key=current.encryption_key, blind_index_key=current.blind_index_key))
        await check_keys(resources.pool, keys)
        resources.keys.follow(keys)
        resources.use(settings)

    def complain(self, outcome: str, message: str, reason: str) -> None:
        """Says it once, however often it is tried again."""
        if self.complaints.get(outcome) != reason:
            self.complaints[outcome] = reason
            self.outcomes.add(outcome)
            log.error(message, extra={"reason": reason})

    def find_more(self, key_id: str) -> Mapping[str, bytes]:
        """Keys that have come into the files since they were last looked at; read at most once a second."""
        if self.files is None or monotonic() < self.search_at:
            return {}
        self.search_at = monotonic() + SEARCH_SECONDS
        try:
            keys = self.files.encryption_keys()
        except ConfigurationError:
            keys = {}
        if key_id not in keys:
            log.warning("something is sealed under a key that is not in ENCRYPTION_KEY", extra={"key_id": key_id})
        return keys


async def try_to_connect(settings: Settings) -> None:
    """Raises DatabaseUnavailable when a connection can't be opened by these settings."""
    try:
        connection = await asyncpg.connect(**connect_options(settings))
    except TRANSIENT as error:
        raise DatabaseUnavailable(
            f"PostgreSQL does not take the new address or password ({type(error).__name__})."
        ) from error
    except (ValueError, OverflowError):
        raise ConfigurationError("DATABASE_URL is not a URL that a PostgreSQL client understands.") from None
    await connection.close()
