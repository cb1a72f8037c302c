"""The composition root: makes the parts that every entry point shares, and closes them in reverse order.

Parts are made without connecting; `open` connects. SQLAlchemy, the CloudEvents SDK and the sink's HTTP client are
imported on a worker thread when a part first needs them, so that a fresh process answers reads before they are there.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from user_service.cache.base import MAX_STALENESS_SECONDS, Cache, NoCache
from user_service.cache.memory import MemoryCache
from user_service.encryption.cipher import FindKeys, find_none
from user_service.encryption.key_registry import KeysRetired, check_keys
from user_service.encryption.keyring import Keyring, load_api_keys, load_keys
from user_service.errors import ConfigurationError, DatabaseUnavailable, ServiceError
from user_service.events.feed import Feed
from user_service.events.feed_watch import FeedWatch
from user_service.events.outbox import Backlog, Outbox
from user_service.observability.access_log import AccessLog
from user_service.observability.jobs import JobLog
from user_service.observability.logging import log
from user_service.observability.loop_lag import LoopLagMonitor
from user_service.observability.metrics import Metrics
from user_service.observability.request_stats import RequestStats
from user_service.observability.tracing import Traced, open_tracing, untraced
from user_service.postgres.clock import DatabaseClock
from user_service.postgres.pool import ReadPool, check_session, fast_path_share, read_seconds
from user_service.security.api_keys import ApiKeys
from user_service.security.authentication import Authenticator
from user_service.security.issuers import broker_issuers, user_issuers
from user_service.security.principals import NETWORK
from user_service.security.rate_limits import REDIS_BUDGET_SECONDS, Limiter
from user_service.security.tokens import Tokens
from user_service.settings import Settings
from user_service.users.imports.pipeline import TURN_TIMEOUT_SECONDS
from user_service.users.reader import UserReader
from user_service.values.deferred import Deferred

if TYPE_CHECKING:
    from user_service.events.dispatch import EventDispatcher
    from user_service.events.relay import Relay
    from user_service.users.batch.runner import BatchRunner
    from user_service.users.imports.runner import ImportRunner
    from user_service.users.model import User
    from user_service.users.unit_of_work import UserDatabase

VERIFY_RETRY_SECONDS: Final = 1.0
RELAY_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Services:
    """The parts behind the API's routes; they need SQLAlchemy."""

    database: "UserDatabase"
    batches: "BatchRunner"
    imports: "ImportRunner"
    dispatcher: "EventDispatcher"


class Resources:
    """The parts that every entry point shares.

    `find_keys` is asked for encryption keys that were added since the start, by key id (see `Cipher`).
    `rate_limit_budget_seconds` bounds a call of Redis for rate limits, `turn_timeout_seconds` the wait of a chunk.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        find_keys: FindKeys = find_none,
        rate_limit_budget_seconds: float = REDIS_BUDGET_SECONDS,
        turn_timeout_seconds: float = TURN_TIMEOUT_SECONDS,
    ) -> None:
        if settings.database_url is None:
            raise ConfigurationError(
                "DATABASE_URL: no database is named; set it, or start with `user-service serve`, which brings one"
            )
        self.settings = settings
        self.exit_stack = AsyncExitStack()
        self.created_at = datetime.now(UTC)
        self.metrics = Metrics()
        self.tracing = open_tracing(settings)
        if self.tracing is not None:
            self.exit_stack.push_async_callback(self.tracing.close)
        self.access_log = (
            AccessLog(level=settings.log_level, log_format=settings.log_format) if settings.access_log else None
        )
        if self.access_log is not None:
            self.exit_stack.callback(self.access_log.flush)
        self.keys: Keyring = load_keys(settings, find_keys=find_keys)
        self.api_keys = ApiKeys(load_api_keys(settings), settings.api_keys)
        self.authenticator, self.event_authenticator = make_authenticators(settings, self.keys, self.api_keys)
        self.clock = DatabaseClock()
        self.pool = ReadPool(
            settings,
            self.metrics,
            size=fast_path_share(settings),
            traced=self.tracing.sql if self.tracing is not None else untraced,
        )
        self.exit_stack.push_async_callback(self.pool.close)
        self.cache = make_cache(
            settings,
            self.keys,
            self.metrics,
            clock=self.clock,
            traced=self.tracing.redis if self.tracing is not None else untraced,
        )
        self.exit_stack.push_async_callback(self.cache.close)
        self.limiter = Limiter(settings, self.metrics, budget_seconds=rate_limit_budget_seconds)
        self.exit_stack.push_async_callback(self.limiter.close)
        self.reader = UserReader(self.pool, self.cache, self.keys.cipher, self.metrics, clock=self.clock)
        self.loop_lag = LoopLagMonitor(self.metrics.loop_lag)
        self.exit_stack.callback(self.loop_lag.stop)
        self.request_stats = RequestStats(self.metrics.requests)
        self.exit_stack.callback(self.request_stats.stop)
        self.jobs = JobLog()
        self.turn_timeout_seconds = turn_timeout_seconds
        self.services: Services | None = None
        self.outbox = Outbox(self.pool)
        self.backlog = Backlog(self.outbox)
        self.feed = Feed(self.pool)
        self.feed_watch = FeedWatch(self.feed)
        self.exit_stack.push_async_callback(self.feed_watch.stop)
        self.relay: Relay | None = None
        self.relay_factory = Deferred(import_relay)
        # Whether the keys were compared with the database, and fit.
        self.verified = False
        self.verifying: asyncio.Task[None] | None = None
        # Whether a change was committed since `relay_committed` last ran.
        self.committed = False

    async def open(self) -> None:
        """Connects and compares the keys with the database. An unreachable database does not stop the start.

        Raises ConfigurationError when the keys do not fit.
        """
        self.loop_lag.start()
        self.request_stats.start()
        self.cache.open()
        try:
            await self.verify()
        except ServiceError as error:
            log.warning("the database is not ready; trying again", extra={"reason": describe_cause(error)})
            self.verifying = asyncio.create_task(self.verify_until_done())
            self.exit_stack.callback(self.verifying.cancel)

    async def close(self) -> None:
        """Closes what was made and opened, the last part first."""
        await self.exit_stack.aclose()

    async def verify(self) -> None:
        """Compares the keys with the database; at first, with a few connections open for the requests that follow.

        Raises ConfigurationError, DatabaseUnavailable.
        """
        if not self.verified:
            await self.pool.open()
            await self.check_pooler()
        try:
            await check_keys(self.pool, self.keys, stores_prefixes=self.settings.search_prefixes)
        except KeysRetired:
            # No key is left that this replica may seal with: it must not write, while other replicas may.
            self.verified = False
            raise
        self.load_api_keys()
        self.verified = True

    async def check_pooler(self) -> None:
        """Raises ConfigurationError for a pooler that can't be used, DatabaseUnavailable."""
        if await self.pool.is_behind_pooler():
            lost = await check_session(self.settings, self.metrics)
            if lost:
                log.warning("sessions lack settings; `user-service doctor` shows the remedy", extra={"settings": lost})

    async def verify_until_done(self) -> None:
        while not self.verified:
            await asyncio.sleep(VERIFY_RETRY_SECONDS)
            try:
                await self.verify()
            except ServiceError:
                continue
            except ConfigurationError as error:
                # The service stays not ready and writes nothing; the probes and this line say why.
                log.critical("the service can't use this database", extra={"reason": str(error)})
                return
        log.info("the database is ready")

    def load_api_keys(self) -> None:
        """Takes the API keys from the settings, and the key of principals' names from the keyring."""
        self.api_keys.replace(load_api_keys(self.settings), self.settings.api_keys)
        self.authenticator.name_key = self.event_authenticator.name_key = self.keys.principal

    def apply_settings(self, settings: Settings) -> None:
        """Continues with settings in which passwords or API keys have changed."""
        has_new_replica_user = settings.database_read_url != self.settings.database_read_url
        self.settings = settings
        self.pool.apply_settings(settings)
        if has_new_replica_user and self.services is not None and self.services.database.replica is not None:
            self.services.database.replica.connector.expire()
        self.load_api_keys()

    def require_database(self) -> None:
        """Raises DatabaseUnavailable until the keys are known to fit the database."""
        if not self.verified:
            raise DatabaseUnavailable("The database does not answer, is not migrated, or was written with other keys.")

    def actor_names(self, user: "User") -> list[str]:
        """The names that a user has in the audit trail as the subject of tokens."""
        subject_type = self.settings.jwt_subject
        subjects = [
            user.external_id if subject_type != "id" else None,
            str(user.id) if subject_type != "external_id" else None,
        ]
        return [name for subject in subjects if subject for name in self.authenticator.subject_names(subject)]

    def open_services(self) -> Services:
        """The parts behind the API, made at the first call. It imports SQLAlchemy: call it on a worker thread."""
        if self.services is not None:
            return self.services
        from user_service.events.dispatch import EventDispatcher
        from user_service.users.batch.runner import BatchRunner
        from user_service.users.imports.runner import ImportRunner
        from user_service.users.unit_of_work import UserDatabase

        database = UserDatabase(
            lambda: self.settings,
            self.keys,
            self.cache,
            self.metrics,
            connector=self.pool.connector,
            size=self.settings.postgres_max_connections - self.pool.size,
            after_change=self.note_commit,
            traced=self.tracing.sql if self.tracing is not None else untraced,
        )
        self.exit_stack.push_async_callback(database.close)
        batches = BatchRunner(database, self.reader, self.jobs)
        dispatcher = EventDispatcher(
            batches, self.keys.cipher, self.metrics, source=self.settings.event_source, relay=self.relay_now
        )
        imports = ImportRunner(batches, turn_timeout_seconds=self.turn_timeout_seconds)
        self.services = Services(database, batches, imports, dispatcher)
        return self.services

    async def open_relay(self) -> "Relay | None":
        """The relay; None where no sink is set. Its libraries are imported at the first call."""
        if self.settings.sink_url is None:
            return None
        make_relay = await self.relay_factory.get()
        if self.relay is None:
            self.relay = make_relay(self)
            self.exit_stack.push_async_callback(self.relay.stop)
        return self.relay

    async def start_background(self) -> None:
        """Starts the feed's task, and the relay where a sink is set; logs why it can't."""
        self.feed_watch.start()
        try:
            relay = await self.open_relay()
        except Exception:
            log.critical("events can't be relayed", exc_info=True)
            return
        if relay is not None:
            relay.start()

    def note_commit(self) -> None:
        """Tells the feed's task, and the relay if there is one, that a change was committed."""
        self.committed = True
        self.feed_watch.wake()
        if self.relay is not None:
            self.relay.wake()

    async def relay_now(self, *, seconds: float = RELAY_SECONDS) -> None:
        """Relays pending events for `seconds` at most. A service scaled to zero does so within a request.

        Raises DatabaseUnavailable.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if (relay := await self.open_relay()) is not None:
                    await relay.drain()

    async def relay_committed(self, *, seconds: float) -> None:
        """Relays in the foreground after a commit, for platforms that run nothing in the background."""
        if self.committed:
            self.committed = False
            with suppress(DatabaseUnavailable):
                await self.relay_now(seconds=seconds)


def import_relay() -> "Callable[[Resources], Relay]":
    from user_service.events.relay import Relay
    from user_service.events.sink import open_sink

    def make_relay(resources: Resources) -> Relay:
        sink = open_sink(resources.settings, resources.tracing, secrets=lambda: resources.settings.event_sink_secret)
        return Relay(resources.outbox, sink, resources.metrics)

    return make_relay


def describe_cause(error: ServiceError) -> str:
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


def make_authenticators(settings: Settings, keys: Keyring, api_keys: ApiKeys) -> tuple[Authenticator, Authenticator]:
    """The authenticators of the API and of `POST /events`; the second one accepts the broker's tokens too."""
    users, brokers = user_issuers(settings), broker_issuers(settings)
    everyone = NETWORK if settings.events_trust_network else None
    return (
        Authenticator(api_keys, Tokens(users), name_key=keys.principal),
        Authenticator(api_keys, Tokens([*users, *brokers]), name_key=keys.principal, everyone=everyone),
    )
