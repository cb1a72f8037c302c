"""URLs of servers, as settings hold them. The parsers raise ValueError, whose message says what was expected."""

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl

# `user:password@host:port`; several hosts are a list, an IPv6 address stands in brackets.
HOST: Final = r"(?:\[[0-9A-Fa-f:.%]+\]|[^:\[\]@,]*)(?::[0-9]{1,5})?"
AUTHORITY: Final = re.compile(rf"(?:.*@)?{HOST}(?:,{HOST})*")

KERNEL: Final = "the operating system's settings apply, as net.ipv4.tcp_keepalive_time"
TLS: Final = "sslmode=verify-full with sslrootcert authenticates the server"
# Parameters of libpq that asyncpg would send to the server as a setting, which the server does not have.
LIBPQ_ONLY: Final = {
    "connect_timeout": "the service gives each host its own time",
    "channel_binding": TLS,
    "require_auth": TLS,
    "sslcertmode": TLS,
    "sslsni": TLS,
    "sslcompression": "TLS 1.3 has no compression",
    "sslcrldir": "name one file with sslcrl",
    "gssencmode": "encrypt with sslmode",
    "requirepeer": "protect the folder of the socket",
    "hostaddr": "put the address into the place of the host",
    "load_balance_hosts": "the service asks the hosts in their order",
    "keepalives": KERNEL,
    "keepalives_idle": KERNEL,
    "keepalives_interval": KERNEL,
    "keepalives_count": KERNEL,
    "tcp_user_timeout": KERNEL,
}
# Values of target_session_attrs.
STANDBYS: Final = ("read-only", "standby", "prefer-standby")
SESSION_KINDS: Final = ("any", "read-write", "primary", *STANDBYS)


def url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        scheme, _, rest = text.partition("://")
        if scheme not in schemes or not rest:
            raise ValueError(f"expected a URL that starts with {' or '.join(f'{s}://' for s in schemes)}")
        if scheme != "unix" and not AUTHORITY.fullmatch(re.split("[/?#]", rest, maxsplit=1)[0]):
            raise ValueError(
                "the host and port can't be read; percent-encode special characters of the password, as `%2F` for /"
            )
        return text

    return parse


def postgres_url(text: str) -> str:
    """A libpq URI of which every parameter is honoured. Raises ValueError that names one that is not."""
    url("postgresql", "postgres")(text)
    for name, value in parse_qsl(text.partition("?")[2], keep_blank_values=True):
        if name == "sslrootcert" and value == "system":
            raise ValueError(
                "sslrootcert=system is not supported; use sslmode=verify-full with the path of the certificates, "
                "as sslrootcert=/etc/ssl/certs/ca-certificates.crt"
            )
        if name in LIBPQ_ONLY:
            raise ValueError(f"{name} is not supported; remove it: {LIBPQ_ONLY[name]}")
        if name == "target_session_attrs" and value not in SESSION_KINDS:
            raise ValueError(f"target_session_attrs is not one of {', '.join(SESSION_KINDS)}")
    return text


def primary_url(text: str) -> str:
    """A libpq URI of a server that takes writes."""
    for name, value in parse_qsl(postgres_url(text).partition("?")[2]):
        if name == "target_session_attrs" and value in STANDBYS:
            raise ValueError(
                f"target_session_attrs={value} leads to a server that takes no writes; remove it, and name the replica "
                "in DATABASE_READ_URL"
            )
    return text
