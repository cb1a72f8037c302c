"""The settings: read once from the environment, checked, then frozen. docs/configuration.md lists them.

A value comes from the variable, from the file that `<NAME>_FILE` names, or from the file of that name in `SECRETS_DIR`,
in this order.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urlsplit

import orjson

from user_service.errors import ConfigurationError
from user_service.values.api_keys import NamedKey, parse_api_keys
from user_service.values.placeholders import find_secret_fault
from user_service.values.server_urls import postgres_url, primary_url, url
from user_service.values.signing_secrets import parse_signing_secrets

EXTENSION_NAME: Final = re.compile("[a-z0-9]+")
# The characters of RFC 3986, at least one.
URI_REFERENCE: Final = re.compile(r"[A-Za-z0-9:/?#\[\]@!$&'()*+,;=._~%-]+")
RESERVED_EXTENSIONS: Final = frozenset(
    {"id", "source", "type", "specversion", "subject", "time", "datacontenttype", "dataschema", "data"}
)
DNS_NAME: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")
DEFAULT_PORT: Final = re.compile(r"^(http(?=.*:80$)|https(?=.*:443$))(://.*):[0-9]+$")

SCIM_PATH: Final = "/scim/v2"


def parse_bool(text: str) -> bool:
    lowered = text.lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off"}:
        return False
    raise ValueError("expected true or false")


def choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return parse


def comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def origins(text: str) -> tuple[str, ...]:
    """Origins as browsers send them: scheme, host and port, in lower case, without the port of the scheme."""
    parts = tuple(DEFAULT_PORT.sub(r"\1\2", part.lower()) for part in comma_separated(text))
    if not all(map(ORIGIN.fullmatch, parts)):
        raise ValueError("expected origins such as https://app.example.org, without a path; * is not accepted")
    return parts


def webhook_origins(text: str) -> tuple[str, ...]:
    """Names of senders of events, in lower case; `*` stands for all."""
    parts = tuple(part.lower() for part in comma_separated(text))
    if not all(part == "*" or DNS_NAME.fullmatch(part) for part in parts):
        raise ValueError("expected DNS names such as eventgrid.azure.net, or *")
    return parts


def cloudevent_overrides(text: str) -> dict[str, str]:
    """The extensions of K_CE_OVERRIDES, `{"extensions": {"name": "value"}}`, by name."""
    try:
        extensions = orjson.loads(text).get("extensions") or {}
        items = list(extensions.items())
    except (orjson.JSONDecodeError, AttributeError):
        raise ValueError('expected JSON, as {"extensions": {"name": "value"}}') from None
    for name, value in items:
        if not EXTENSION_NAME.fullmatch(name) or name in RESERVED_EXTENSIONS or not isinstance(value, str):
            raise ValueError(
                "an extension needs a name of a-z and 0-9, other than CloudEvents' own, and a string as its value"
            )
    return extensions


def scim(text: str) -> bool:
    """Whether SCIM is on, for which its libraries must be there."""
    is_on = parse_bool(text)
    if is_on and find_spec("scim2_server") is None:
        raise ValueError(
            "the libraries of SCIM are not installed; requirements/production.txt has them, as the extra `scim`"
        )
    return is_on


def scim_base_url(text: str) -> str:
    """The URL of the SCIM endpoints as identity providers call it, without a slash at its end."""
    base = url("https", "http")(text).rstrip("/")
    if not base.endswith(SCIM_PATH) or set(base) & set("?# "):
        raise ValueError(f"expected a URL that ends with {SCIM_PATH}, as https://users.example.org{SCIM_PATH}")
    return base


def uri_reference(text: str) -> str:
    if not URI_REFERENCE.fullmatch(text):
        raise ValueError("expected a URI or a path in ASCII without spaces, as /user-service or //example.org/users")
    return text


def pem(text: str) -> str:
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError("expected certificates in PEM")
    return text


def setting(default: Any, parse: Callable[[str], Any]) -> Any:
    """A field of Settings. `parse` raises ValueError, whose message says what was expected."""
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force. Durations are in seconds, sizes in bytes."""

    app_env: str = setting("development", choice("development", "production"))
    host: str = setting("0.0.0.0", str)  # noqa: S104 - a container is reached from outside
    port: int = setting(3002, whole_number(0, 65535))
    # Without a value, the page is served in development only.
    admin_page: bool | None = setting(None, parse_bool)
    admin_oidc_client_id: str | None = setting(None, str)
    admin_oidc_scope: str = setting("openid", str)
    serve: str = setting("all", choice("api", "events", "all"))
    data_dir: Path = setting(Path("~/.local/share/user-service"), Path)
    database_url: str | None = setting(None, primary_url)
    database_read_url: str | None = setting(None, postgres_url)
    postgres_max_connections: int = setting(20, whole_number(2, 1000))
    database_timeout: int = setting(5, whole_number(1, 300))
    # At least as long as events may wait in the outbox.
    audit_retention_days: int = setting(365, whole_number(7, 36_500))
    # 0 keeps deleted users.
    deleted_retention_days: int = setting(0, whole_number(0, 36_500))
    search_prefixes: bool = setting(False, parse_bool)
    redis_url: str | None = setting(None, url("redis", "rediss", "unix"))
    redis_key_prefix: str = setting("user-service:", str)
    cache: str = setting("auto", choice("auto", "none"))
    cache_ttl: int = setting(300, whole_number(1, 86_400))
    cache_max_bytes: int = setting(32 * 1024 * 1024, whole_number(0, 2**40))
    encryption_key: str | None = setting(None, str)
    blind_index_key: str | None = setting(None, str)
    internal_api_key: tuple[str, ...] = setting((), comma_separated)
    api_keys: tuple[NamedKey, ...] = setting((), parse_api_keys)
    secrets_reload_seconds: int = setting(5, whole_number(1, 300))
    k_sink: str | None = setting(None, url("http", "https"))
    event_sink_url: str | None = setting(None, url("http", "https"))
    event_sink_secret: tuple[bytes, ...] = setting((), parse_signing_secrets)
    event_source: str = setting("/user-service", uri_reference)
    k_ce_overrides: Mapping[str, str] = field(default_factory=dict, metadata={"parse": cloudevent_overrides})
    k_sink_token_file: Path = setting(Path("/oidc/token"), Path)
    k_ca_certs: str | None = setting(None, pem)
    jwt_issuer: str | None = setting(None, str)
    jwt_audience: str | None = setting(None, str)
    jwt_jwks_url: str | None = setting(None, url("https", "http"))
    jwt_subject: str = setting("either", choice("either", "external_id", "id"))
    events_audience: str | None = setting(None, str)
    events_issuer: str = setting("https://kubernetes.default.svc.cluster.local", str)
    events_jwks_url: str = setting("https://kubernetes.default.svc/openid/v1/jwks", url("https", "http"))
    events_subjects: tuple[str, ...] = setting(("*",), comma_separated)
    events_trust_network: bool = setting(False, parse_bool)
    webhook_origins: tuple[str, ...] = setting((), webhook_origins)
    cors_origins: tuple[str, ...] = setting((), origins)
    scim: bool = setting(False, scim)
    scim_base_url: str | None = setting(None, scim_base_url)
    jwks_ca_file: Path | None = setting(None, Path)
    events_jwks_token_file: Path | None = setting(None, Path)
    rate_limit_max: int = setting(100, whole_number(0, 10**9))
    rate_limit_internal_max: int = setting(0, whole_number(0, 10**9))
    max_in_flight: int = setting(256, whole_number(1, 100_000))
    max_connections: int = setting(4096, whole_number(1, 1_000_000))
    request_timeout: int = setting(30, whole_number(1, 3600))
    head_timeout: int = setting(10, whole_number(1, 3600))
    body_timeout: int = setting(10, whole_number(1, 3600))
    log_level: str = setting("info", choice("debug", "info", "warning", "error"))
    log_format: str = setting("json", choice("json", "text"))
    access_log: bool = setting(True, parse_bool)
    otel_exporter_otlp_endpoint: str | None = setting(None, url("http", "https"))
    otel_exporter_otlp_traces_endpoint: str | None = setting(None, url("http", "https"))
    otel_sdk_disabled: bool = setting(False, parse_bool)
    shutdown_timeout: int = setting(8, whole_number(1, 300))

    @property
    def is_production(self) -> bool:
        return self.app_env == "production"

    @property
    def has_admin_page(self) -> bool:
        """Whether `/admin` is served, which works through the API of this process."""
        wanted = not self.is_production if self.admin_page is None else self.admin_page
        return wanted and self.serve != "events"

    @property
    def has_scim(self) -> bool:
        """Whether `/scim/v2` is served."""
        return self.scim and self.serve != "events"

    @property
    def sink_url(self) -> str | None:
        """The URL that events are sent to. A SinkBinding's K_SINK comes first."""
        return self.k_sink or self.event_sink_url

    @property
    def traces_wanted(self) -> bool:
        """Whether an OTLP endpoint is set; OpenTelemetry reads its other variables itself."""
        named = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return named is not None and not self.otel_sdk_disabled

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """The settings of `environ`. Raises ConfigurationError, which lists every fault and no value of a secret."""
        source = SettingsSource(environ)
        values = {name: source.read(name, parse) for name, parse in PARSERS.items()}
        values["database_url"] = values["database_url"] or source.database_url()
        values["redis_url"] = values["redis_url"] or source.redis_url()
        present = {name: value for name, value in values.items() if value is not None}
        settings = cls(**present)
        source.faults += missing_in_production(settings) + incomplete_issuers(settings) + too_few_connections(settings)
        if source.faults:
            raise ConfigurationError("The service can't start:\n" + "\n".join(f"- {f}" for f in source.faults))
        return settings


PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {each.name: each.metadata["parse"] for each in fields(Settings)}


class SettingsSource:
    """Reads single values and collects their faults."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.secrets_dir = Path(environ.get("SECRETS_DIR") or "/var/run/secrets/user-service")
        self.faults: list[str] = []

    def file_path(self, name: str) -> Path:
        """The file of a setting that has no variable."""
        named = self.environ.get(f"{name}_FILE", "").strip()
        return Path(named) if named else self.secrets_dir / name

    def text(self, name: str) -> str | None:
        """The raw value of setting `NAME`; an empty one counts as absent."""
        if value := self.environ.get(name, "").strip():
            return value
        named = self.environ.get(f"{name}_FILE", "").strip()
        path = self.file_path(name)
        try:
            return path.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            if named:
                self.faults.append(f"{name}_FILE: the file {named} does not exist")
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(f"{name}: {path} can't be read ({error.__class__.__name__})")
        return None

    def read(self, field: str, parse: Callable[[str], Any]) -> Any:
        text = self.text(field.upper())
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.faults.append(f"{field.upper()}: {error}")
            return None

    def database_url(self) -> str | None:
        host = self.text("POSTGRES_HOST")
        if host is None:
            return None
        user = quote(self.text("POSTGRES_USER") or "user_service", safe="")
        password = self.text("POSTGRES_USER_PASSWORD")
        credentials = f"{user}:{quote(password, safe='')}" if password else user
        port = self.read("postgres_port", whole_number(1, 65535)) or 5432
        database = quote(self.text("POSTGRES_DB") or "user_service", safe="")
        if host.startswith("/"):
            return f"postgresql://{credentials}@/{database}?host={quote(host, safe='/')}&port={port}"
        return f"postgresql://{credentials}@{url_host(host)}:{port}/{database}"

    def redis_url(self) -> str | None:
        host = self.text("REDIS_HOST")
        if host is None:
            return None
        password = self.text("REDIS_PASSWORD")
        credentials = f":{quote(password, safe='')}@" if password else ""
        port = self.read("redis_port", whole_number(1, 65535)) or 6379
        return f"redis://{credentials}{url_host(host)}:{port}/0"


def url_host(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def url_password(url: str | None) -> str:
    """The password of a URL; empty where it has none."""
    return unquote(url.partition("://")[2].rpartition("@")[0].partition(":")[2]) if url is not None else ""


def missing_in_production(settings: Settings) -> list[str]:
    if not settings.is_production:
        return []
    faults = []
    if settings.database_url is None:
        faults.append("DATABASE_URL (or POSTGRES_HOST): production needs a PostgreSQL server")
    if settings.encryption_key is None:
        faults.append("ENCRYPTION_KEY: production needs one; make one with `user-service keys new`")
    if not settings.internal_api_key and not settings.api_keys and not settings.jwt_issuer:
        faults.append(
            "API_KEYS or INTERNAL_API_KEY: production needs at least one, made with `user-service keys api NAME "
            "--scopes SCOPES` or `openssl rand -hex 32`, or a JWT_ISSUER"
        )
    secrets = {
        "ENCRYPTION_KEY": settings.encryption_key or "",
        "POSTGRES_USER_PASSWORD": url_password(settings.database_url),
        "REDIS_PASSWORD": url_password(settings.redis_url),
        "INTERNAL_API_KEY": ",".join(settings.internal_api_key),
        "API_KEYS": ",".join(key.digest.hex() for key in settings.api_keys),
    }
    refused = (find_secret_fault(name, value) for name, value in secrets.items())
    faults += [fault for fault in refused if fault is not None]
    return faults


def too_few_connections(settings: Settings) -> list[str]:
    """The fault of a budget that leaves a pool without a connection."""
    if settings.database_read_url is not None and settings.postgres_max_connections < 3:
        return ["POSTGRES_MAX_CONNECTIONS: DATABASE_READ_URL needs at least 3, one for each pool"]
    return []


def incomplete_issuers(settings: Settings) -> list[str]:
    """The faults of token issuers: settings that are missing, and key sets fetched over an open network."""
    faults = []
    named = [settings.jwt_issuer, settings.jwt_audience, settings.jwt_jwks_url]
    if any(named) and not all(named):
        faults.append("JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL: set all three, or none of them")
    if settings.admin_oidc_client_id and not settings.jwt_issuer:
        faults.append("ADMIN_OIDC_CLIENT_ID: persons sign in at JWT_ISSUER, which is not set")
    addresses = {"JWT_JWKS_URL": settings.jwt_jwks_url, "EVENTS_JWKS_URL": settings.events_jwks_url}
    for name, address in addresses.items():
        if settings.is_production and address is not None and not is_tamper_proof(address):
            faults.append(f"{name}: a response changed on the network would let forged tokens in; use https")
    return faults


def is_tamper_proof(url: str) -> bool:
    """Whether a response can't be changed on its way: https, this machine, or a Service of the cluster."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" or host == "localhost" or host.endswith((".svc", ".svc.cluster.local"))
