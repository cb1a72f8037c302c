"""TLS to PostgreSQL: a certificate that does not verify is named, and is mended without a restart."""

import asyncio
from pathlib import Path

import pytest

from support.api import USERS
from support.application import running
from support.authority import Authority
from support.forwarder import forwarding
from support.process import command
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually


def over_tls(url: str, port: int, authority: Authority) -> str:
    database = url.partition("?")[0].rpartition("/")[2]
    return f"postgresql://postgres@localhost:{port}/{database}?sslmode=verify-full&sslrootcert={authority.path}"


async def test_a_certificate_that_stops_being_valid_is_503_and_named_until_it_is_replaced(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    async with forwarding(postgres.sockets, authority.server_context()) as forwarder:
        url = over_tls(database_url, forwarder.port, authority)
        async with running(make_settings(url, tmp_path, cache="none")) as client:
            path = await client.make()
            bad = [
                stranger.server_context(),
                authority.server_context(days=-1),
                authority.server_context(host="elsewhere"),
            ]
            responses = []
            for context in bad:
                forwarder.context = context
                client.resources.pool.connector.generation += 1
                responses += [await client.get(path), await client.patch(path, json={"given_name": "Ada"})]
            forwarder.context = authority.server_context()

            async def is_well() -> bool:
                return (await client.patch(path, json={"given_name": "Grace"})).status_code == 200

            await eventually(is_well)

    assert {(response.status_code, response.json()["code"]) for response in responses} == {
        (503, "database_unavailable")
    }
    assert {response.headers["retry-after"] for response in responses} == {"1"}
    assert [response.json()["detail"] for response in responses if "certificate" not in response.json()["detail"]] == []


async def test_at_the_start_the_certificate_is_named_and_awaited(
    database_url: str, postgres: PostgresServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    async with forwarding(postgres.sockets, stranger.server_context()) as forwarder:
        url = over_tls(database_url, forwarder.port, authority)
        async with running(make_settings(url, tmp_path)) as client:
            refused = await client.get(USERS)
            said = capfd.readouterr().err
            forwarder.context = authority.server_context()

            async def is_ready() -> bool:
                return (await client.get("/api/health/ready")).status_code == 200

            await eventually(is_ready)

    assert refused.status_code == 503
    assert "The certificate of PostgreSQL is not valid" in said


async def test_an_authority_that_is_replaced_is_used_by_new_connections(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    authority, later = Authority(tmp_path / "authority"), Authority(tmp_path / "later")
    async with forwarding(postgres.sockets, authority.server_context()) as forwarder:
        url = over_tls(database_url, forwarder.port, authority)
        async with running(make_settings(url, tmp_path, cache="none")) as client:
            path = await client.make()
            forwarder.context = later.server_context()
            authority.path.write_bytes(later.path.read_bytes())
            client.resources.pool.connector.expire()
            responses = [await client.get(path), await client.patch(path, json={"given_name": "Ada"})]

    assert [response.status_code for response in responses] == [200, 200]


async def test_a_file_that_is_lost_is_a_503_that_names_it_until_it_is_back(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    async with forwarding(postgres.sockets, authority.server_context()) as forwarder:
        url = over_tls(database_url, forwarder.port, authority)
        async with running(make_settings(url, tmp_path, cache="none", database_timeout=1)) as client:
            path = await client.make()
            hidden = authority.path.rename(tmp_path / "hidden")
            client.resources.pool.connector.expire()
            responses = [await client.get(path), await client.patch(path, json={"given_name": "Ada"})]
            hidden.rename(authority.path)

            async def is_well() -> bool:
                return (await client.patch(path, json={"given_name": "Grace"})).status_code == 200

            await eventually(is_well)

    expected = f"DATABASE_URL: sslrootcert names the file {authority.path}, which can't be read (FileNotFoundError)."
    assert {response.status_code for response in responses} == {503}
    assert [
        response.json()["detail"] for response in responses if not response.json()["detail"].startswith(expected)
    ] == []


async def test_a_replica_that_can_not_be_reached_over_tls_leaves_lists_to_the_primary_and_is_named(
    database_url: str, postgres: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="user_service")
    authority = Authority(tmp_path / "authority")
    reasons = []
    async with forwarding(postgres.sockets, authority.server_context(days=-1)) as forwarder:
        ended = over_tls(database_url, forwarder.port, authority)
        for url in (ended, ended.replace("ca.pem", "lost.pem"), ended.replace("verify-full", "nonsense")):
            settings = make_settings(database_url, tmp_path, database_read_url=url, database_timeout=1)
            async with running(settings) as client:
                await client.make()
                response = await client.get(USERS)
                assert (response.status_code, len(response.json()["items"])) == (200, len(reasons) + 1)
            reasons.append([record for record in caplog.records if "read replica" in record.message][-1].reason)  # type: ignore[attr-defined]

    assert "certificate has expired" in reasons[0]
    assert "sslrootcert in DATABASE_READ_URL" in reasons[0]
    assert reasons[1].startswith("DATABASE_READ_URL: sslrootcert names the file")
    assert reasons[2].startswith("DATABASE_READ_URL is not a URL")


async def test_doctor_and_migrate_name_the_certificate(
    database_url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    async with forwarding(postgres.sockets, stranger.server_context()) as forwarder:
        url = over_tls(database_url, forwarder.port, authority)
        report = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=url)
        lost_url = url.replace("ca.pem", "lost.pem")
        lost = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=lost_url)
        migrated = [
            await asyncio.to_thread(command, tmp_path, "migrate", DATABASE_URL=name) for name in (url, lost_url)
        ]

    invalid, missing = "The certificate of PostgreSQL is not valid", "DATABASE_URL: sslrootcert names the file"
    assert report.returncode == lost.returncode == 1
    assert invalid in report.stdout
    assert missing in lost.stdout
    assert [done.returncode for done in migrated] == [1, 1]
    assert invalid in migrated[0].stderr
    assert missing in migrated[1].stderr
