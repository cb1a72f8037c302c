"""TLS to PostgreSQL: a certificate that does not verify is named, and is mended without a restart."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.api import USERS
from support.application import running
from support.forwarder import forwarding
from support.process import command
from support.servers import PostgresServer
from support.settings import make_settings
from support.waiting import eventually


class Authority:
    """A certificate authority in a folder, and the certificates that it issues for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        builder = self.builder(self.name, self.key.public_key(), days=1)
        certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.path = folder / "ca.pem"
        self.path.write_bytes(certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
        )

    def server_context(self, *, host: str = "localhost", days: int = 1) -> ssl.SSLContext:
        """TLS of a server whose certificate is for this host, and ends in so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        builder = self.builder(name, key.public_key(), days=days)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        chain = self.folder / f"{host}-{days}.pem"
        chain.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context


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
            answers = []
            for context in bad:
                forwarder.context = context
                client.resources.pool.connector.generation += 1
                answers += [await client.get(path), await client.patch(path, json={"given_name": "Ada"})]
            forwarder.context = authority.server_context()

            async def is_well() -> bool:
                return (await client.patch(path, json={"given_name": "Grace"})).status_code == 200

            await eventually(is_well)

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "database_unavailable")}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert [answer.json()["detail"] for answer in answers if "certificate" not in answer.json()["detail"]] == []


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


async def test_doctor_names_the_certificate(database_url: str, postgres: PostgresServer, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    async with forwarding(postgres.sockets, stranger.server_context()) as forwarder:
        url = over_tls(database_url, forwarder.port, authority)
        report = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=url)
        lost = await asyncio.to_thread(command, tmp_path, "doctor", DATABASE_URL=url.replace("ca.pem", "lost.pem"))

    assert report.returncode == lost.returncode == 1
    assert "The certificate of PostgreSQL is not valid" in report.stdout
    assert "not a URL" not in report.stdout + lost.stdout
