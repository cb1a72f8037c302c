"""`user-service doctor`: checks the settings and the servers that the service needs, and prints remedies."""

import asyncio
import ssl
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

import asyncpg

from user_service.cli.certificates import examine_certificates
from user_service.encryption.key_registry import compare_keys
from user_service.encryption.keyring import load_keys, secret_path
from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.observability.metrics import Metrics
from user_service.postgres import migrations
from user_service.postgres.embedded.wheel import EmbeddedPostgresError, find_programs
from user_service.postgres.pool import ReadPool, check_session, connect_options
from user_service.postgres.pooler import role_settings
from user_service.resilience.circuit_breaker import describe_error
from user_service.resilience.tls_files import find_unreadable_file
from user_service.settings import SCIM_PATH, Settings

MIN_POSTGRES_VERSION: Final = 150_000
REDIS_CERTIFICATE_REMEDY: Final = "Check the server's certificate, and ssl_ca_certs in REDIS_URL."

SERVER: Final = """
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
  current_setting('transaction_read_only') = 'on'
"""
# A replica that has replayed all that it received is not behind, however long ago the last change was.
REPLICA: Final = """
SELECT pg_is_in_recovery(), to_regclass('users') IS NOT NULL,
  CASE WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
    ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) END::float8
"""

Finding = tuple[bool, str]


def run(environ: Mapping[str, str]) -> int:
    """Prints one line per check; returns 1 when one failed."""
    try:
        settings = Settings.load(environ)
    except ConfigurationError as error:
        report("settings", "FAIL", str(error))
        return 1
    report("settings", "ok", f"APP_ENV={settings.app_env}, port {settings.port}")
    return 0 if asyncio.run(examine_parts(settings)) else 1


async def examine_parts(settings: Settings) -> bool:
    pool = ReadPool(settings, Metrics(), size=1)
    checks: dict[str, Callable[[], Coroutine[Any, Any, Finding]]] = {
        "database": lambda: check_database(settings, pool),
        "migrations": lambda: check_migrations(pool),
        "keys": lambda: check_keyring(settings, pool),
        "redis": lambda: check_redis(settings),
    }
    if settings.database_read_url is not None:
        checks["replica"] = lambda: check_replica(settings)
    if settings.database_url is None:
        checks = {"database": lambda: check_embedded(settings), "redis": checks["redis"]}
    findings = []
    for name, check in checks.items():
        try:
            finding = await check()
        except (DatabaseUnavailable, ConfigurationError) as error:
            finding = False, str(error)
        except asyncpg.PostgresError as error:
            finding = False, f"PostgreSQL refused ({type(error).__name__}): check what the role of DATABASE_URL may do"
        report(name, "ok" if finding[0] else "FAIL", finding[1])
        findings.append(finding[0])
    await pool.close()
    report("scim", "ok", describe_scim(settings))
    async for mark, text in examine_certificates(settings):
        report("certificate", mark, text)
        findings.append(mark != "FAIL")
    return all(findings)


def report(name: str, mark: str, text: str) -> None:
    """Prints a line. `mark` is `ok`, `warn` or `FAIL`; a warning does not change the exit status."""
    sys.stdout.write(f"{mark:4}  {name:11} {text}\n")


async def check_embedded(settings: Settings) -> Finding:
    try:
        find_programs(None)
    except EmbeddedPostgresError as error:
        return False, str(error)
    return True, f"embedded, in {settings.data_dir.expanduser()}; `user-service serve` starts it"


def describe_scim(settings: Settings) -> str:
    """Whether identity providers can provision users, and at which URL."""
    if not settings.has_scim:
        return "off: SCIM=true lets Okta and Entra ID provision users, see docs/scim.md"
    if settings.scim_base_url is not None:
        return f"on at {settings.scim_base_url}"
    return (
        f"on at http://127.0.0.1:{settings.port}{SCIM_PATH}: SCIM_BASE_URL names the URL that identity providers call"
    )


async def check_database(settings: Settings, pool: ReadPool) -> Finding:
    try:
        rows = await pool.fetch(SERVER)
    except DatabaseUnavailable as error:
        if error.detail != error.title:
            return False, error.detail
        reason = type(error.__cause__).__name__
        return (
            False,
            f"PostgreSQL does not respond ({reason}): check DATABASE_URL, the password and the network policy",
        )
    number, name, is_read_only = rows[0]
    if number < MIN_POSTGRES_VERSION:
        return False, f"PostgreSQL {name}: the oldest supported version is 15"
    if is_read_only and pool.connector.writes:
        return False, f"PostgreSQL {name} takes no writes: default_transaction_read_only is on, or its disk is full"
    if await pool.is_behind_pooler():
        if lost := await check_session(settings, pool.metrics):
            return False, role_settings(lost, connect_options(settings)["server_settings"])
        return True, f"PostgreSQL {name}, through a pooler"
    return True, f"PostgreSQL {name}"


async def check_replica(settings: Settings) -> Finding:
    """Whether the server of DATABASE_READ_URL can take the lists."""
    pool = ReadPool(replace(settings, database_url=settings.database_read_url), Metrics(), size=1, writes=False)
    try:
        is_fine, text = await check_database(pool.settings, pool)
        if not is_fine:
            return False, text.replace("DATABASE_URL", "DATABASE_READ_URL")
        is_standby, is_migrated, lag = (await pool.fetch(REPLICA))[0]
    finally:
        await pool.close()
    if not is_migrated:
        return (
            False,
            "no tables of the service: DATABASE_READ_URL must name a replica of DATABASE_URL's server",
        )
    if not is_standby:
        return (
            False,
            "this server is no replica: unset DATABASE_READ_URL, or name a replica of DATABASE_URL's server",
        )
    return True, f"{text}, {lag:.1f} s behind the primary"


async def check_migrations(pool: ReadPool) -> Finding:
    head = migrations.head()
    try:
        present = await pool.fetch("SELECT to_regclass('alembic_version') IS NOT NULL")
        revisions = await pool.fetch("SELECT version_num FROM alembic_version") if present[0][0] else []
    except DatabaseUnavailable as error:
        return False, f"not checked: {error.detail}"
    revision = revisions[0][0] if revisions else ""
    if revision == head:
        return True, f"at {head}"
    if revision > head:
        return True, f"at {revision}, from a release after this one, whose newest is {head}"
    return False, f"at {revision or 'none'}, the newest is {head}: run `user-service migrate`"


async def check_keyring(settings: Settings, pool: ReadPool) -> Finding:
    if settings.encryption_key is None and not secret_path(settings, "encryption-key").exists():
        return True, "none yet: the first start generates one; set ENCRYPTION_KEY for more than one replica"
    try:
        keys = load_keys(settings)
        await compare_keys(pool, keys)
    except DatabaseUnavailable as error:
        return False, f"not compared with the database: {error.detail}"
    return True, f"active key {keys.cipher.active_id}, {len(keys.fingerprints)} in the keyring"


async def check_redis(settings: Settings) -> Finding:
    if settings.redis_url is None:
        return True, "not set: each replica has its own cache; set REDIS_URL for more than one replica"
    from redis.exceptions import RedisError

    from user_service.cli.redis_diagnosis import find_redis_fault

    try:
        fault = await find_redis_fault(settings)
    except (RedisError, OSError) as error:
        if (lost := find_unreadable_file(settings.redis_url, "REDIS_URL")) is not None:
            return False, lost
        if isinstance(cause := error.__context__, ssl.SSLCertVerificationError):
            return False, f"The certificate of Redis is not valid: {cause.verify_message}. {REDIS_CERTIFICATE_REMEDY}"
        return (
            False,
            f"Redis does not respond ({describe_error(error)}): check REDIS_URL; without it the service is slower",
        )
    return fault is None, fault or "Redis responds"
