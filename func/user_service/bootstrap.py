"""What is opened at the start and closed at the stop: keys, metrics, cache, database pool. Nothing here imports FastAPI
or SQLAlchemy; `users/storage.py` is opened by the API, which comes after the first reads.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from user_service.cache.base import MAX_STALENESS_SECONDS, Cache, MemoryCache, NoCache
from user_service.encryption.key_registry import check_keys
from user_service.encryption.keyring import Keyring, load_api_keys, load_keys
from user_service.errors import ConfigurationError, DatabaseUnavailable, ServiceError
from user_service.events.outbox import Backlog, Outbox
from user_service.observability.access_log import AccessLog
from user_service.observability.jobs import JobLog
from user_service.observability.logging import log
from user_service.observability.loop_lag import LoopLagMonitor
from user_service.observability.metrics import Metrics
from user_service.observability.request_stats import RequestStats
from user_service.observability.tracing import Traced, open_tracing, untraced
from user_service.postgres.clock import DatabaseClock
from user_service.postgres.pool import ReadPool, read_seconds
from user_service.secret_rotation import Rotation, SecretFiles
from user_service.security.authentication import NETWORK, Authenticator
from user_service.security.rate_limits import Limiter
from user_service.security.tokens import Tokens, broker_trusts, user_trusts
from user_service.settings import Settings
from user_service.users.reader import UserReader

if TYPE_CHECKING:
    from user_service.events.relay import Relay

RETRY_SECONDS: Final = 1.0
RELAY_SECONDS: Final = 10.0


class Resources:
    """The parts that every front door shares. Made without connecting; `open` connects."""

    def __init__(self, settings: Settings, secret_files: SecretFiles | None = None) -> None:
        if settings.database_url is None:
            raise ConfigurationError(
                "DATABASE_URL: no database is named; set it, or start with `user-service serve`, which brings one"
            )
        self.settings = settings
        self.metrics = Metrics()
        self.tracing = open_tracing(settings)
        self.keys: Keyring = load_keys(settings)
        self.authenticator, self.event_authenticator = make_authenticators(settings, self.keys)
        self.limiter = Limiter(settings, self.metrics)
        self.clock = DatabaseClock()
        self.cache = make_cache(
            settings,
            self.keys,
            self.metrics,
            clock=self.clock,
            traced=self.tracing.redis if self.tracing is not None else untraced,
        )
        self.pool = ReadPool(
            settings,
            self.metrics,
            size=max(1, settings.postgres_max_connections // 4),
            traced=self.tracing.sql if self.tracing is not None else untraced,
        )
        self.reader = UserReader(self.pool, self.cache, self.keys.cipher, self.metrics, clock=self.clock)
        self.access_log = (
            AccessLog(level=settings.log_level, log_format=settings.log_format) if settings.access_log else None
        )
        self.loop_watch = LoopLagMonitor(self.metrics.loop_lag)
        self.recent = RequestStats(self.metrics.requests)
        self.activity = JobLog()
        self.created_at = datetime.now(UTC)
        self.rotation = Rotation(self, secret_files)
        self.keys.cipher.find_more = self.rotation.find_more
        self.followers: list[Callable[[Settings], None]] = [self.pool.adopt]
        self.verified = False
        self.verifying: asyncio.Task[None] | None = None
        self.outbox = Outbox(self.pool)
        self.backlog = Backlog(self.outbox)
        self.relay: Relay | None = None
        self.opening_relay = asyncio.Lock()
        self.committed = False

    @property
    def engine_size(self) -> int:
        """Connections left for SQLAlchemy's pool."""
        return self.settings.postgres_max_connections - self.pool.size

    async def open(self) -> None:
        """Connects and checks the keys. A database that is away does not stop the start; wrong keys do.

        Raises ConfigurationError.
        """
        self.loop_watch.start()
        self.recent.start()
        self.rotation.start()
        self.cache.open()
        try:
            await self.verify()
        except ServiceError as error:
            log.warning("the database is not ready; trying again", extra={"reason": reason_of(error)})
            self.verifying = asyncio.create_task(self.verify_until_done())

    async def verify(self) -> None:
        await check_keys(self.pool, self.keys)
        self.load_callers()
        self.verified = True

    def load_callers(self) -> None:
        """Lets callers in by the keys of the settings, and names them under the key of the database."""
        api_keys, name_key = load_api_keys(self.settings), self.keys.principal
        for authenticator in (self.authenticator, self.event_authenticator):
            authenticator.trust(api_keys, name_key=name_key)

    async def verify_until_done(self) -> None:
        while not self.verified:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self.verify()
            except ServiceError:
                continue
            except ConfigurationError as error:
                # Not ready from here on: the probes say why, and nothing is written.
                log.critical("the service can't use this database", extra={"reason": str(error)})
                return
        log.info("the database is ready")

    def follow(self, follower: Callable[[Settings], None]) -> None:
        """Has somebody told of the settings, now and whenever their secrets change."""
        follower(self.settings)
        self.followers.append(follower)

    def use(self, settings: Settings) -> None:
        """Goes on with settings whose passwords or API keys are others."""
        self.settings = settings
        for follower in self.followers:
            follower(settings)
        self.load_callers()

    def require_database(self) -> None:
        """Raises DatabaseUnavailable until the keys are known to fit the database."""
        if not self.verified:
            raise DatabaseUnavailable("The database does not answer, is not migrated, or was written with other keys.")

    async def open_relay(self) -> "Relay | None":
        """The relay, if there is a sink. What it takes is imported on another thread, and only then."""
        async with self.opening_relay:
            if self.settings.sink_url is not None and self.relay is None:
                self.relay = (await asyncio.to_thread(import_relay))(self)
        return self.relay

    def wake_relay(self) -> None:
        """Tells the relay, if there is one, that a change was committed."""
        self.committed = True
        if self.relay is not None:
            self.relay.wake()

    async def relay_now(self, *, seconds: float = RELAY_SECONDS) -> None:
        """Relays what waits, for as long as a request may take, so that a service at zero is not stopped before.

        Raises DatabaseUnavailable.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if (relay := await self.open_relay()) is not None:
                    await relay.drain()

    async def relay_committed(self, *, seconds: float) -> None:
        """Relays in the foreground, where something was committed and there is no background."""
        if self.committed:
            self.committed = False
            with suppress(DatabaseUnavailable):
                await self.relay_now(seconds=seconds)

    async def close(self) -> None:
        self.loop_watch.stop()
        self.recent.stop()
        self.rotation.stop()
        if self.verifying is not None:
            self.verifying.cancel()
        if self.relay is not None:
            await self.relay.stop()
        await self.limiter.close()
        await self.cache.close()
        await self.pool.close()
        if self.access_log is not None:
            self.access_log.flush()
        if self.tracing is not None:
            await self.tracing.close()


def import_relay() -> "Callable[[Resources], Relay]":
    from user_service.events.relay import Relay
    from user_service.events.sink import open_sink

    def make(resources: Resources) -> Relay:
        return Relay(resources.outbox, open_sink(resources.settings, resources.tracing), resources.metrics)

    return make


def reason_of(error: ServiceError) -> str:
    cause = error.__cause__
    return f"{error.detail} ({type(cause).__name__})" if cause is not None else error.detail


def make_cache(settings: Settings, keys: Keyring, metrics: Metrics, *, clock: DatabaseClock, traced: Traced) -> Cache:
    """The cache of the settings. With Redis, no tier keeps an entry beyond `MAX_STALENESS_SECONDS`."""
    if settings.cache == "none":
        return NoCache()
    ttl_seconds = settings.cache_ttl if settings.redis_url is None else min(settings.cache_ttl, MAX_STALENESS_SECONDS)
    slowest = read_seconds(settings)
    local = MemoryCache(max_bytes=settings.cache_max_bytes, ttl_seconds=ttl_seconds, read_seconds=slowest)
    if settings.redis_url is None:
        return local
    from user_service.cache.redis import RedisCache, connect
    from user_service.cache.tiered import TieredCache

    redis = RedisCache(
        settings.redis_url,
        prefix=settings.redis_key_prefix,
        ttl_seconds=ttl_seconds,
        read_seconds=slowest,
        cipher=keys.cipher,
        metrics=metrics,
        clock=clock,
        traced=traced,
    )
    return TieredCache(local, redis, connect(settings.redis_url, retries=0))


def make_authenticators(settings: Settings, keys: Keyring) -> tuple[Authenticator, Authenticator]:
    """Who may use the API, and who may bring events: the same, and the broker."""
    api_keys = load_api_keys(settings)
    users, brokers = user_trusts(settings), broker_trusts(settings)
    anybody = NETWORK if settings.events_trust_network else None
    return (
        Authenticator(api_keys, Tokens(users), name_key=keys.principal),
        Authenticator(api_keys, Tokens([*users, *brokers]), name_key=keys.principal, anybody=anybody),
    )
