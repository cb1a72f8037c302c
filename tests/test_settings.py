"""Settings: where each comes from, what each accepts, and that a fault never shows a secret."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from user_service.encryption.keyring import load_keys
from user_service.errors import ConfigurationError
from user_service.settings import Settings

ODD = "p@ss:w/rd?#[%41]& +ü"
STRONG = "f3b1c0a9d8e7462f9b1d"
PRODUCTION = {
    "APP_ENV": "production",
    "DATABASE_URL": "postgresql://service@db.internal/users",
    "ENCRYPTION_KEY": "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "INTERNAL_API_KEY": STRONG,
}


@pytest.fixture
def no_secrets(tmp_path: Path) -> dict[str, str]:
    return {"SECRETS_DIR": str(tmp_path / "none")}


def read_refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as refusal:
        load_keys(Settings.load(environ))
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("PORT", "0", 0),
        ("PORT", " 8080 ", 8080),
        ("HOST", "::1", "::1"),
        ("SERVE", "events", "events"),
        ("DATABASE_URL", "postgres://h/db", "postgres://h/db"),
        ("DATABASE_URL", "postgresql://u:p@[::1]:5432,h2:1/db", "postgresql://u:p@[::1]:5432,h2:1/db"),
        ("DATABASE_URL", "postgresql:///db?host=/run/pg", "postgresql:///db?host=/run/pg"),
        ("DATABASE_READ_URL", "postgresql://h", "postgresql://h"),
        ("DATABASE_URL", "postgresql://h/d?sslrootcert=/ca&jit=off", "postgresql://h/d?sslrootcert=/ca&jit=off"),
        ("POSTGRES_MAX_CONNECTIONS", "2", 2),
        ("DATABASE_TIMEOUT", "300", 300),
        ("REDIS_URL", "rediss://:p@h:6380/2", "rediss://:p@h:6380/2"),
        ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("CACHE", "none", "none"),
        ("CACHE_TTL", "1", 1),
        ("CACHE_MAX_BYTES", "0", 0),
        ("INTERNAL_API_KEY", " one, two ,,", ("one", "two")),
        ("ACCESS_LOG", "Off", False),
        (
            "CORS_ORIGINS",
            "https://App.example.org, http://localhost:5173,",
            ("https://app.example.org", "http://localhost:5173"),
        ),
        ("CORS_ORIGINS", "http://[::1]:8080", ("http://[::1]:8080",)),
        ("CORS_ORIGINS", "https://a.org:443,http://a.org:80", ("https://a.org", "http://a.org")),
        ("CORS_ORIGINS", "https://a.org:80,http://a.org:443", ("https://a.org:80", "http://a.org:443")),
        ("WEBHOOK_ORIGINS", "EventGrid.azure.net,*", ("eventgrid.azure.net", "*")),
        ("ACCESS_LOG", "1", True),
        ("LOG_LEVEL", "debug", "debug"),
        ("LOG_FORMAT", "text", "text"),
        ("SHUTDOWN_TIMEOUT", "30", 30),
        ("DATA_DIR", "~/here", Path("~/here")),
    ],
)
def test_a_setting_is_read(no_secrets: dict[str, str], name: str, text: str, value: object) -> None:
    assert getattr(Settings.load({**no_secrets, name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "65536", "from 0 to 65535"),
        ("PORT", "-1", "from 0 to 65535"),
        ("PORT", "٣", "from 0 to 65535"),
        ("PORT", "80.0", "from 0 to 65535"),
        ("POSTGRES_MAX_CONNECTIONS", "1", "from 2 to 1000"),
        ("APP_ENV", "staging", "development, production"),
        ("SERVE", "web", "api, events, all"),
        ("DATABASE_URL", "mysql://u:hunter2@h/db", "postgresql://"),
        ("DATABASE_URL", "postgresql+asyncpg://u:hunter2@h/db", "postgresql://"),
        ("DATABASE_URL", "postgresql://", "postgresql://"),
        ("DATABASE_URL", "postgresql://u:hunter2/x@h/db", "special characters"),
        ("DATABASE_URL", "postgresql://u:hunter2#x@h/db", "special characters"),
        ("DATABASE_URL", "postgresql://u:hunter2@h:port/db", "special characters"),
        (
            "DATABASE_URL",
            "postgresql://u:hunter2@h/db?connect_timeout=10",
            "connect_timeout is not supported",
        ),
        ("DATABASE_URL", "postgresql://u:hunter2@h/db?channel_binding=require", "sslmode=verify-full"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/db?a=b&keepalives_idle=5", "net.ipv4.tcp_keepalive_time"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/db?target_session_attrs=hunter2", "any, read-write, primary"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/db?target_session_attrs=standby", "DATABASE_READ_URL"),
        ("DATABASE_URL", "postgresql://u:hunter2@h/db?target_session_attrs=prefer-standby", "takes no writes"),
        ("DATABASE_READ_URL", "postgresql://u:hunter2@h/db?sslrootcert=system", "/etc/ssl/certs/ca-certificates.crt"),
        ("REDIS_URL", "http://:hunter2@h", "redis://"),
        ("REDIS_URL", "redis://:hunter2/x@h:6379", "special characters"),
        ("CACHE_TTL", "0", "from 1 to 86400"),
        ("ACCESS_LOG", "maybe", "true or false"),
        ("CORS_ORIGINS", "*", "https://app.example.org"),
        ("CORS_ORIGINS", "null", "https://app.example.org"),
        ("CORS_ORIGINS", "https://app.example.org/", "without a path"),
        ("CORS_ORIGINS", "app.example.org", "https://app.example.org"),
        ("WEBHOOK_ORIGINS", "https://eventgrid.azure.net", "eventgrid.azure.net"),
        ("LOG_LEVEL", "verbose", "debug, info, warning, error"),
        ("LOG_FORMAT", "xml", "json, text"),
        ("ENCRYPTION_KEY", "hunter2hunter2", "user-service keys new"),
        ("ENCRYPTION_KEY", "k1:hunter2hunter2", "not base64"),
        ("ENCRYPTION_KEY", "k1:aHVudGVyMg==", "32 are needed"),
        ("ENCRYPTION_KEY", f"k1:{'A' * 43}=", "placeholder"),
        ("ENCRYPTION_KEY", f"{PRODUCTION['ENCRYPTION_KEY']},{PRODUCTION['ENCRYPTION_KEY']}", "twice"),
        ("BLIND_INDEX_KEY", "aHVudGVyMg==", "BLIND_INDEX_KEY"),
        ("BLIND_INDEX_KEY", "hunter2hunter2", "BLIND_INDEX_KEY"),
    ],
)
def test_a_fault_is_refused_by_its_name_with_what_is_expected_and_without_the_value(
    no_secrets: dict[str, str], tmp_path: Path, name: str, text: str, expected: str
) -> None:
    refusal = read_refusal({**no_secrets, "DATA_DIR": str(tmp_path), name: text})

    assert name in refusal
    assert expected in refusal
    assert "hunter2" not in refusal
    assert PRODUCTION["ENCRYPTION_KEY"][3:] not in refusal


def test_all_faults_are_listed_at_once(no_secrets: dict[str, str]) -> None:
    refusal = read_refusal({**no_secrets, "PORT": "x", "CACHE_TTL": "y", "REDIS_URL": "z"})

    assert [name in refusal for name in ("PORT", "CACHE_TTL", "REDIS_URL")] == [True] * 3


def test_a_value_comes_from_the_variable_then_its_file_then_the_folder_of_secrets(tmp_path: Path) -> None:
    folder, named = tmp_path / "secrets", tmp_path / "port"
    folder.mkdir()
    (folder / "PORT").write_text("1\n")
    named.write_text(" 2 \n")
    environ = {"SECRETS_DIR": str(folder)}

    from_folder = Settings.load(environ).port
    from_file = Settings.load({**environ, "PORT_FILE": str(named)}).port
    from_variable = Settings.load({**environ, "PORT_FILE": str(named), "PORT": "3"}).port
    empty_counts_as_absent = Settings.load({**environ, "PORT": " "}).port

    assert (from_folder, from_file, from_variable, empty_counts_as_absent) == (1, 2, 3, 1)


def test_a_named_file_that_is_not_there_is_a_fault(no_secrets: dict[str, str], tmp_path: Path) -> None:
    refusal = read_refusal({**no_secrets, "INTERNAL_API_KEY_FILE": str(tmp_path / "absent")})

    assert f"INTERNAL_API_KEY_FILE: the file {tmp_path / 'absent'} does not exist" in refusal


def test_a_secret_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "INTERNAL_API_KEY").write_bytes(b"\xff\xfe")

    assert "INTERNAL_API_KEY" in read_refusal({"SECRETS_DIR": str(tmp_path)})


def test_every_part_of_a_connection_may_be_a_secret_file(tmp_path: Path) -> None:
    for name, text in {"POSTGRES_HOST": "db", "POSTGRES_USER_PASSWORD": ODD, "REDIS_HOST": "cache"}.items():
        (tmp_path / name).write_text(text)

    settings = Settings.load({"SECRETS_DIR": str(tmp_path)})

    assert settings.database_url is not None
    assert settings.database_url.endswith("@db:5432/user_service")
    assert settings.redis_url == "redis://cache:6379/0"


class Doorkeeper:
    """Speaks PostgreSQL's protocol as far as the password, in clear, and remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        message = await reader.readexactly(length - 4)
        if length == 8:  # asks for TLS
            writer.write(b"N")
            return await self.greet(reader, writer)
        words = message[4:].decode().split("\0")
        self.told = dict(zip(words[::2], words[1::2], strict=False))
        writer.write(b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big"))
        length = int.from_bytes((await reader.readexactly(5))[1:], "big")
        self.told["password"] = (await reader.readexactly(length - 4)).rstrip(b"\0").decode()
        writer.close()
        return None


@pytest.mark.parametrize("place", ["127.0.0.1", "::1", "a folder"])
async def test_parts_with_odd_characters_reach_postgresql_as_they_are(
    no_secrets: dict[str, str], tmp_path: Path, place: str
) -> None:
    doorkeeper = Doorkeeper()
    if place == "a folder":
        host, port = str(tmp_path), 6543
        server = await asyncio.start_unix_server(doorkeeper.greet, tmp_path / f".s.PGSQL.{port}")
    else:
        server = await asyncio.start_server(doorkeeper.greet, place, 0)
        host, port = place, server.sockets[0].getsockname()[1]
    parts = {"POSTGRES_HOST": host, "POSTGRES_PORT": str(port), "POSTGRES_DB": "us/rs ?#", "POSTGRES_USER": "a@b:c"}
    settings = Settings.load({**no_secrets, **parts, "POSTGRES_USER_PASSWORD": ODD})

    with pytest.raises((OSError, asyncpg.PostgresError)):
        await asyncpg.connect(settings.database_url, timeout=60)
    server.close()

    told = {name: doorkeeper.told[name] for name in ("user", "database", "password")}
    assert told == {"user": "a@b:c", "database": "us/rs ?#", "password": ODD}


def test_parts_with_odd_characters_reach_redis_as_they_are(no_secrets: dict[str, str]) -> None:
    parts = {"REDIS_HOST": "::1", "REDIS_PORT": "7000", "REDIS_PASSWORD": ODD}

    url = Settings.load({**no_secrets, **parts}).redis_url

    assert url is not None
    used = Redis.from_url(url).connection_pool.connection_kwargs
    assert (used["host"], used["port"], used["password"]) == ("::1", 7000, ODD)


def test_a_url_wins_over_its_parts(no_secrets: dict[str, str]) -> None:
    settings = Settings.load({**no_secrets, "DATABASE_URL": "postgresql://one/db", "POSTGRES_HOST": "other"})

    assert settings.database_url == "postgresql://one/db"


@pytest.mark.parametrize("name", ["DATABASE_URL", "ENCRYPTION_KEY", "INTERNAL_API_KEY"])
def test_production_refuses_what_is_missing(no_secrets: dict[str, str], name: str) -> None:
    given = {key: text for key, text in PRODUCTION.items() if key != name}

    assert name in read_refusal({**no_secrets, **given})


@pytest.mark.parametrize(
    "key",
    [
        "tooshort1",
        "changeme-changeme",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        f"{STRONG},replace-me-please-now",
        "MySecret-1234567",
    ],
)
def test_production_refuses_weak_keys_without_showing_them(no_secrets: dict[str, str], key: str) -> None:
    refusal = read_refusal({**no_secrets, **PRODUCTION, "INTERNAL_API_KEY": key})

    assert "openssl rand -hex 32" in refusal
    assert not any(part in refusal for part in key.split(","))


def test_production_starts_with_all_that_it_needs(no_secrets: dict[str, str]) -> None:
    settings = Settings.load({**no_secrets, **PRODUCTION})

    assert settings.is_production
    assert load_keys(settings).cipher.active_id == "k1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://service:change-me@db.internal/users"),
        ("REDIS_URL", "redis://:development-only-redis@cache.internal/0"),
        ("ENCRYPTION_KEY", "development-only:ZGV2ZWxvcG1lbnQtb25seS1kZXZlbG9wbWVudC1vbmw="),
        ("INTERNAL_API_KEY", "development-only-api-key-0000000000"),
    ],
)
def test_production_refuses_what_is_published_without_showing_it(
    no_secrets: dict[str, str], name: str, value: str
) -> None:
    refusal = read_refusal({**PRODUCTION, **no_secrets, name: value})

    assert value not in refusal
    assert "placeholder" in refusal or "published" in refusal
