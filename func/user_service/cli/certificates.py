"""What `user-service doctor` says of certificates: those that the servers send, and the service's own."""

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.x509 import Certificate, load_der_x509_certificate, load_pem_x509_certificates

from user_service.observability.metrics import Metrics
from user_service.postgres.connector import Connector
from user_service.postgres.failures import TRANSIENT, URL_SETTING, describe_failure
from user_service.postgres.hosts import Host, split_hosts
from user_service.postgres.pool import connect_options
from user_service.resilience.tls_files import OWN_CERTIFICATES, find_unreadable_file, named_files
from user_service.settings import Settings

# A certificate that is renewed at two thirds of its lifetime, as cert-manager does, never comes as near to its end.
SOON: Final = timedelta(days=21)
SOON_PART: Final = 4

# `ok`, `warn` or `FAIL`, and the text.
Remark = tuple[str, str]


async def examine_certificates(settings: Settings) -> AsyncIterator[Remark]:
    """A remark for each certificate. A server that does not respond has none, and is another check's affair."""
    for setting, url in (("DATABASE_URL", settings.database_url), ("DATABASE_READ_URL", settings.database_read_url)):
        if url is not None:
            async for remark in examine_postgres(setting, connect_options(settings, url=url)):
                yield remark
    if settings.redis_url is not None and settings.redis_url.startswith("rediss:"):
        async for remark in examine_redis(settings.redis_url):
            yield remark


async def examine_postgres(setting: str, options: dict[str, Any]) -> AsyncIterator[Remark]:
    """Each host of a URI: a standby's certificate would be missed on the day of the failover."""
    connector = Connector(lambda: options, Metrics(), writes=False)
    hosts: list[Host | None] = [*split_hosts(options["dsn"])]
    for host in hosts or [None]:
        name = f"{host[0]}:{host[1]} of {setting}" if host is not None else setting
        try:
            connection = await connector.connect_to(host, {**options, "target_session_attrs": "any"})
        except ssl.SSLError as error:
            if hosts:
                yield "FAIL", f"{name}: {describe_failure(error).replace(URL_SETTING, setting)}"
        except (*TRANSIENT, ValueError) as error:
            if hosts:
                yield "warn", f"{name} does not respond ({type(error).__name__})"
        else:
            remark = examine_peer(name, connection._transport.get_extra_info("ssl_object"), "sslmode=verify-full")
            connection.terminate()
            if remark is not None:
                yield remark
    for remark in examine_files(setting, options["dsn"]):
        yield remark


async def examine_redis(url: str) -> AsyncIterator[Remark]:
    from redis.exceptions import RedisError

    from user_service.cache.redis import connect

    redis = connect(url, retries=0)
    try:
        connection: Any = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        tls = connection._writer.get_extra_info("ssl_object")
        await redis.connection_pool.release(connection)
    except (RedisError, OSError):
        return
    finally:
        await redis.aclose()
    if (remark := examine_peer("REDIS_URL", tls, "ssl_cert_reqs=required")) is not None:
        yield remark
    for remark in examine_files("REDIS_URL", url):
        yield remark


def examine_peer(name: str, tls: ssl.SSLObject | None, remedy: str) -> Remark | None:
    """The remark on the certificate that a server has sent; None without TLS."""
    sent = tls.getpeercert(binary_form=True) if tls is not None else None
    if tls is None or sent is None:
        return None
    mark, text = examine(f"the certificate of {name}", load_der_x509_certificate(sent))
    if mark == "ok" and tls.context.verify_mode == ssl.CERT_NONE:
        return "warn", f"{text}; nothing checks who has issued it: use {remedy}"
    return mark, text


def examine_files(setting: str, url: str) -> list[Remark]:
    """The remarks on the service's own certificates, or on a file that can't be read."""
    if (fault := find_unreadable_file(url, setting)) is not None:
        return [("FAIL", fault)]
    return [examine_file(setting, path) for name, path in named_files(url) if name in OWN_CERTIFICATES]


def examine_file(setting: str, path: Path) -> Remark:
    name = f"the certificate {path} of {setting}"
    try:
        certificates = load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        return "FAIL", f"{name} is no certificate in PEM: correct the path, or convert the file"
    return examine(name, certificates[0])


def examine(name: str, certificate: Certificate) -> Remark:
    now = datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end <= now:
        return "FAIL", f"{name} has ended on {end:%Y-%m-%d}: renew it"
    if end - now < min(SOON, (end - begin) / SOON_PART):
        return "warn", f"{name} ends on {end:%Y-%m-%d %H:%M} UTC: renew it"
    return "ok", f"{name} is valid until {end:%Y-%m-%d}"
