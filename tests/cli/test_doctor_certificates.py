"""What doctor says of certificates: of PostgreSQL, of a replica, of Redis, and of the service's own."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.authority import Authority
from support.forwarder import forwarding
from support.ports import free_port
from support.process import command
from support.servers import PostgresServer, RedisServer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def url_over_tls(url: str, ports: list[int], *, mode: str, authority: Authority, more: str = "") -> str:
    hosts = ",".join(f"localhost:{port}" for port in ports)
    database = url.partition("?")[0].rpartition("/")[2]
    trust = f"&sslrootcert={authority.path}" if mode == "verify-full" else ""
    return f"postgresql://postgres@{hosts}/{database}?sslmode={mode}{trust}{more}"


async def examine(folder: Path, **environ: str) -> tuple[int, list[str]]:
    """The exit status, and the lines on certificates."""
    done = await asyncio.to_thread(command, folder, "doctor", **environ)
    return done.returncode, [line for line in done.stdout.splitlines() if line[6:].startswith("certificate")]


async def examine_postgres(
    url: str, server: PostgresServer, authority: Authority, context: ssl.SSLContext, *, mode: str
) -> tuple[int, list[str]]:
    async with forwarding(server.sockets, context) as forwarder:
        return await examine(
            authority.folder, DATABASE_URL=url_over_tls(url, [forwarder.port], mode=mode, authority=authority)
        )


async def test_a_certificate_is_fine_until_it_ends_soon(
    database_url: str, postgres: PostgresServer, authority: Authority
) -> None:
    mode = "verify-full"
    fine, soon = authority.server_context(days=400), authority.server_context(days=10, age_days=80)
    shown_fine = await examine_postgres(database_url, postgres, authority, fine, mode=mode)
    shown_soon = await examine_postgres(database_url, postgres, authority, soon, mode=mode)

    assert (shown_fine[0], shown_soon[0]) == (0, 0)
    assert [line[:4] for line in shown_fine[1]] == ["ok  "]
    assert [line[:4] for line in shown_soon[1]] == ["warn"]
    assert "DATABASE_URL ends on" in shown_soon[1][0]


async def test_a_certificate_of_a_short_life_is_fine_in_its_first_three_quarters(
    database_url: str, postgres: PostgresServer, authority: Authority
) -> None:
    short = authority.server_context(days=1, age_days=2)
    status, lines = await examine_postgres(database_url, postgres, authority, short, mode="verify-full")

    assert (status, [line[:4] for line in lines]) == (0, ["ok  "])


async def test_a_certificate_that_nothing_checks_is_a_warning_and_a_failure_when_it_has_ended(
    database_url: str, postgres: PostgresServer, authority: Authority
) -> None:
    unchecked = await examine_postgres(
        database_url, postgres, authority, authority.server_context(days=400), mode="require"
    )
    ended = await examine_postgres(database_url, postgres, authority, authority.server_context(days=-1), mode="require")

    assert unchecked[0] == 0
    assert unchecked[1][0].startswith("warn")
    assert "use sslmode=verify-full" in unchecked[1][0]
    assert ended[0] == 1
    assert ended[1][0].startswith("FAIL")
    assert "has ended on" in ended[1][0]


async def test_the_certificate_of_every_host_is_read(
    database_url: str, postgres: PostgresServer, authority: Authority
) -> None:
    async with (
        forwarding(postgres.sockets, authority.server_context(days=400)) as first,
        forwarding(postgres.sockets, authority.server_context(days=-1)) as second,
    ):
        ports = [first.port, second.port, free_port()]
        url = url_over_tls(database_url, ports, mode="verify-full", authority=authority)
        status, lines = await examine(authority.folder, DATABASE_URL=url)

    assert status == 1
    assert [line[:4] for line in lines] == ["ok  ", "FAIL", "warn"]
    assert f"localhost:{second.port} of DATABASE_URL: The certificate of PostgreSQL is not valid" in lines[1]
    assert "does not respond" in lines[2]


async def test_the_certificates_of_the_replica_and_of_the_service_are_read(
    database_url: str, postgres: PostgresServer, authority: Authority
) -> None:
    own = authority.issue(host="client", days=-1)
    async with forwarding(postgres.sockets, authority.server_context(days=400)) as forwarder:
        more = f"&sslcert={own}&sslkey={own}"
        url = url_over_tls(database_url, [forwarder.port], mode="verify-full", authority=authority, more=more)
        status, lines = await examine(authority.folder, DATABASE_URL=database_url, DATABASE_READ_URL=url)

    assert status == 1
    assert [line[:4] for line in lines] == ["ok  ", "FAIL"]
    assert "of DATABASE_READ_URL is valid until" in lines[0]
    assert f"the certificate {own} of DATABASE_READ_URL has ended on" in lines[1]


@contextmanager
def redis_over_tls(folder: Path, certificate: Path) -> Iterator[int]:
    """The port of a Redis with this certificate."""
    folder.mkdir()
    port = free_port()
    tls = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(certificate))
    server = RedisServer(folder, *tls, "--tls-auth-clients", "no")
    server.start()
    try:
        yield port
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("days", "age_days", "query", "status", "mark"),
    [
        (400, 2, "ssl_ca_certs={}", 0, "ok"),
        (10, 80, "ssl_ca_certs={}", 0, "warn"),
        (400, 2, "ssl_cert_reqs=none", 0, "warn"),
        (-1, 2, "ssl_cert_reqs=none", 1, "FAIL"),
    ],
    ids=["fine", "soon", "unchecked", "ended"],
)
async def test_the_certificate_of_redis_is_read(
    authority: Authority, tmp_path: Path, days: int, age_days: int, query: str, status: int, mark: str
) -> None:
    with redis_over_tls(tmp_path / "redis", authority.issue(days=days, age_days=age_days)) as port:
        url = f"rediss://localhost:{port}/0?{query.format(authority.path)}"
        shown, lines = await examine(tmp_path, REDIS_URL=url)

    assert shown == status
    assert [line.split()[0] for line in lines] == [mark]
    assert "REDIS_URL" in lines[0]


async def test_a_certificate_of_redis_that_does_not_verify_is_named(authority: Authority, tmp_path: Path) -> None:
    with redis_over_tls(tmp_path / "redis", authority.issue(days=-1)) as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={authority.path}"
        done = await asyncio.to_thread(command, tmp_path, "doctor", REDIS_URL=url)
        lost = await asyncio.to_thread(command, tmp_path, "doctor", REDIS_URL=url.replace("ca.pem", "lost.pem"))

    assert done.returncode == lost.returncode == 1
    assert "The certificate of Redis is not valid: certificate has expired. Check" in done.stdout
    assert f"REDIS_URL: ssl_ca_certs names the file {authority.folder}/lost.pem, which can't be read" in lost.stdout


@pytest.mark.parametrize(("content", "said"), [(None, "can't be read (FileNotFoundError)"), (b"no PEM", "in PEM")])
async def test_a_lost_or_damaged_certificate_of_the_service_is_named(
    database_url: str, postgres: PostgresServer, authority: Authority, content: bytes | None, said: str
) -> None:
    own = authority.folder / "own.pem"
    if content is not None:
        own.write_bytes(content)
    async with forwarding(postgres.sockets, authority.server_context(days=400)) as forwarder:
        more = f"&sslcert={own}&sslkey={own}"
        url = url_over_tls(database_url, [forwarder.port], mode="require", authority=authority, more=more)
        done = await asyncio.to_thread(command, authority.folder, "doctor", DATABASE_URL=url)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert any(said in line and str(own) in line for line in done.stdout.splitlines() if line.startswith("FAIL"))
