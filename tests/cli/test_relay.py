"""`user-service relay`, its settings, and sinks behind TLS."""

import asyncio
import datetime
import ipaddress
import signal
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook

from support.application import running
from support.event_sink import Sink, running_sink
from support.process import command
from support.secret_files import SecretFolder
from support.settings import API_KEY, ENCRYPTION_KEY, make_environ, make_settings
from support.waiting import PATIENCE_SECONDS, wait_until
from user_service.errors import ConfigurationError
from user_service.settings import Settings


def make_users(database_url: str, folder: Path, count: int) -> None:
    async def make() -> None:
        async with running(make_settings(database_url, folder)) as client:
            for _ in range(count):
                await client.make()

    asyncio.run(make())


def test_relay_posts_what_waits_and_tells_how_much(database_url: str, tmp_path: Path, sink: Sink) -> None:
    make_users(database_url, tmp_path, 3)
    first = command(tmp_path, "relay", DATABASE_URL=database_url, K_SINK=sink.url)
    assert (first.returncode, first.stdout) == (0, "3 events published, 0 left in the outbox\n"), first.stderr
    again = command(tmp_path, "relay", DATABASE_URL=database_url, EVENT_SINK_URL=sink.url)
    assert (again.returncode, again.stdout) == (0, "0 events published, 0 left in the outbox\n")
    assert len(sink.taken) == 3


def test_relay_fails_when_the_sink_does_and_tries_at_once_when_it_is_run_again(
    database_url: str, tmp_path: Path, sink: Sink
) -> None:
    make_users(database_url, tmp_path, 1)
    sink.answer = lambda _: 503
    failed = command(tmp_path, "relay", DATABASE_URL=database_url, K_SINK=sink.url)
    assert (failed.returncode, failed.stdout) == (1, "0 events published, 1 left in the outbox\n")
    sink.answer = lambda _: 202
    assert command(tmp_path, "relay", DATABASE_URL=database_url, K_SINK=sink.url).returncode == 0


def test_relay_without_a_sink_or_a_database_says_what_to_do(database_url: str, tmp_path: Path) -> None:
    no_sink = command(tmp_path, "relay", DATABASE_URL=database_url)
    assert no_sink.returncode == 2
    assert "EVENT_SINK_URL" in no_sink.stderr
    away = "postgresql://nobody@127.0.0.1:9/none"
    no_database = command(tmp_path, "relay", DATABASE_URL=away, K_SINK="http://127.0.0.1:9/")
    assert no_database.returncode == 1
    assert "doctor" in no_database.stderr


def test_relay_watches_until_it_is_stopped(database_url: str, tmp_path: Path, sink: Sink) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "user_service.cli.main", "relay", "--watch"],
        env=make_environ(tmp_path, {"DATABASE_URL": database_url, "K_SINK": sink.url}),
        stdin=subprocess.DEVNULL,
    )
    try:
        for number in (1, 2):
            make_users(database_url, tmp_path, 1)
            sink.wait_for(number)
        watching.send_signal(signal.SIGTERM)
        assert watching.wait(PATIENCE_SECONDS) == 0
    finally:
        watching.kill()
        watching.wait()


def test_relay_watches_its_secrets_too(database_url: str, tmp_path: Path, sink: Sink) -> None:
    one, other = (f"whsec_{b64encode(bytes(range(start, start + 32))).decode()}" for start in (0, 32))
    secrets = SecretFolder(
        tmp_path / "secrets", ENCRYPTION_KEY=ENCRYPTION_KEY, INTERNAL_API_KEY=API_KEY, EVENT_SINK_SECRET=one
    )
    environ = {"DATABASE_URL": database_url, "K_SINK": sink.url, "SECRETS_RELOAD_SECONDS": "1", **secrets.environ}
    with (tmp_path / "relay.log").open("wb") as log:
        watching = subprocess.Popen(
            [sys.executable, "-m", "user_service.cli.main", "relay", "--watch"],
            env=make_environ(tmp_path, environ),
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        make_users(database_url, tmp_path, 1)
        (before,) = sink.wait_for(1)
        secrets.swap(EVENT_SINK_SECRET=other)
        wait_until(lambda: "changed secrets are in use" in (tmp_path / "relay.log").read_text(), "the new secret")
        make_users(database_url, tmp_path, 1)
        after = sink.wait_for(2)[-1]
    finally:
        watching.kill()
        watching.wait()

    Webhook(one).verify(before.body, before.headers)
    Webhook(other).verify(after.body, after.headers)


def certify(folder: Path) -> tuple[Path, str]:
    """A certificate of 127.0.0.1 with its key, as a file, and the certificate alone, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sink")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "sink.pem"
    path.write_bytes(private + pem)
    return path, pem.decode()


def test_a_sink_with_a_certificate_of_the_cluster_is_trusted_by_k_ca_certs_alone(
    database_url: str, tmp_path: Path
) -> None:
    chain, pem = certify(tmp_path)
    make_users(database_url, tmp_path, 1)
    with running_sink(certificate=chain) as sink:
        assert sink.url.startswith("https://")
        distrusted = command(tmp_path, "relay", DATABASE_URL=database_url, K_SINK=sink.url)
        assert (distrusted.returncode, sink.seen) == (1, [])
        trusted = command(tmp_path, "relay", DATABASE_URL=database_url, K_SINK=sink.url, K_CA_CERTS=pem)
        assert trusted.returncode == 0, trusted.stderr
        assert len(sink.taken) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("K_SINK", "broker.example.org"),
        ("EVENT_SINK_URL", "ftp://broker.example.org"),
        ("K_CE_OVERRIDES", "{"),
        ("K_CE_OVERRIDES", "[]"),
        ("K_CE_OVERRIDES", '{"extensions": {"Name": "value"}}'),
        ("K_CE_OVERRIDES", '{"extensions": {"id": "7"}}'),
        ("K_CE_OVERRIDES", '{"extensions": {"name": 7}}'),
        ("K_CA_CERTS", "nonsense"),
        ("EVENT_SOURCE", "staging users"),
        ("EVENT_SINK_SECRET", "hunter2"),
        ("EVENT_SINK_SECRET", "whsec_" + "aHVudGVyMg=="),
        ("EVENT_SINK_SECRET", "whsec_" + "*" * 32),
        ("EVENT_SINK_SECRET", "whsec_" + "A" * 44),
        ("EVENT_SINK_SECRET", "whsec_" + "AQIDBAUGBwgJCgsM" * 6),
        ("EVENT_SINK_SECRET", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="),
        ("EVENTS_TRUST_NETWORK", "perhaps"),
    ],
)
def test_a_wrong_setting_is_named_at_the_start(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as raised:
        Settings.load({name: value})
    assert name != "EVENT_SINK_SECRET" or value.removeprefix("whsec_") not in str(raised.value)


def test_the_overrides_of_a_sink_binding_are_read() -> None:
    settings = Settings.load({"K_CE_OVERRIDES": '{"extensions": {"cluster": "blue"}}', "K_SINK": "http://broker/"})
    assert (settings.k_ce_overrides, settings.sink_url) == ({"cluster": "blue"}, "http://broker/")
    assert Settings.load({"K_CE_OVERRIDES": "{}"}).k_ce_overrides == {}
    both = Settings.load({"K_SINK": "http://broker/", "EVENT_SINK_URL": "http://other/"})
    assert both.sink_url == "http://broker/"
