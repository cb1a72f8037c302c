"""The hosts of a libpq URI, and the database that it names."""

from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

DEFAULT_PORT: Final = "5432"
CREDENTIALS: Final = frozenset({"user", "password"})

Host = tuple[str, int]


def split_hosts(url: str) -> list[Host]:
    """Host and port of each host of a URI that lists several; empty for any other URI."""
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        authority = parts.netloc.rpartition("@")[2]
        if "," in authority:
            return [split_port(host) for host in authority.split(",")]
        hosts = query.get("host", "").split(",") if not authority else []
        if len(hosts) < 2:
            return []
        ports = query.get("port", DEFAULT_PORT).split(",")
        if len(ports) == 1:
            ports *= len(hosts)
        return [(host, int(port)) for host, port in zip(hosts, ports, strict=True)]
    except ValueError:
        return []


def split_port(text: str) -> Host:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, DEFAULT_PORT
    return unquote(host).removeprefix("[").removesuffix("]"), int(port)


def named_database(url: str | None) -> Any:
    """Everything that a URI says except user and password: equal for two URIs that name one database in one way."""
    if url is None:
        return None
    parts = urlsplit(url)
    parameters = sorted(pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in CREDENTIALS)
    return unquote(parts.netloc.rpartition("@")[2]).lower(), unquote(parts.path), parameters
