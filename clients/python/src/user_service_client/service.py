"""The address of a service, the credentials, and how requests are put together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4

import httpx2

from user_service_client.models import FileFormat, User
from user_service_client.steps import MEDIA_TYPES, Parse, Request, Retry, Send, Steps, T, exchange, expect, parse_as

VERSION = "0.1.0"
USERS = "/api/v1/users"
MAX_PORT = 65535
UserRef = User | UUID | str
Token = str | Callable[[], str]


@dataclass(frozen=True)
class Service:
    """What all requests of a client have in common. Raises ValueError for what is no address or no credential."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    token: Token | None = field(default=None, repr=False)
    timeout_seconds: float = 30
    retry: Retry = field(default_factory=Retry)
    reason: str | None = None

    def __post_init__(self) -> None:
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL:
            url = httpx2.URL("")
        if (
            url.scheme not in {"http", "https"}
            or not url.host
            or url.userinfo
            or url.query
            or url.fragment
            or (url.port or 0) > MAX_PORT
        ):
            raise ValueError("url: not an address such as https://users.example.org")
        if (self.api_key is None) == (self.token is None):
            raise ValueError("give an api_key or a token")
        if not (self.api_key or self.token):
            raise ValueError("the api_key or token is empty")
        if not callable(self.token):
            encode_headers(self.credentials())
        if self.reason is not None and (not self.reason.isprintable() or not 0 < len(self.reason.strip()) <= 200):
            raise ValueError("reason: up to 200 characters on one line")

    def build(
        self, http: httpx2.Client | httpx2.AsyncClient, step: Send, credentials: Mapping[str, str]
    ) -> httpx2.Request:
        """The request of httpx2 for one try."""
        body, base = step.request.body, httpx2.URL(self.url)
        content: Any = body
        if callable(body):
            content = read_in_threads(body()) if isinstance(http, httpx2.AsyncClient) else body()
        return http.build_request(
            step.request.method,
            base.copy_with(raw_path=base.raw_path.rstrip(b"/") + step.request.path.encode("ascii")),
            headers=[*encode_headers({**step.request.headers, **credentials}), *self.reason_headers()],
            content=content,
            timeout=httpx2.Timeout(step.timeout_seconds, connect=min(step.timeout_seconds, self.timeout_seconds)),
        )

    def credentials(self) -> dict[str, str]:
        """The header of the API key or the token; a function gives a token for each try."""
        if self.api_key is not None:
            return {"X-API-Key": self.api_key}
        return {"Authorization": f"Bearer {self.token() if callable(self.token) else self.token}"}

    def reason_headers(self) -> list[tuple[bytes, bytes]]:
        """In UTF-8, which the service reads in this header."""
        return [(b"X-Change-Reason", self.reason.strip().encode())] if self.reason is not None else []

    def call(self, request: Request, parse: Parse[T]) -> Steps[T]:
        return exchange(request, parse, self.retry, timeout_seconds=self.timeout_seconds)

    def read(self, kind: type[T], path: str, parameters: Mapping[str, str] | None = None) -> Steps[T]:
        return self.call(Request("GET", add_query(path, parameters or {})), parse_as(kind))

    def open(self, request: Request, file_format: FileFormat) -> Steps[None]:
        """Opens a stream of this format, which `read_pieces` and `read_lines` read."""
        check = expect(MEDIA_TYPES[file_format])
        return exchange(request, check, self.retry, timeout_seconds=self.timeout_seconds, is_stream=True)

    def write(
        self,
        method: str,
        path: str,
        parse: Parse[T],
        body: Any = None,
        *,
        key: str | None = None,
        if_version: int | None = None,
        media_type: str = "application/json",
    ) -> Steps[T]:
        """A write, which takes effect once however often it is tried: `key` is the Idempotency-Key, or one is made."""
        headers = {"Idempotency-Key": key or str(uuid4())}
        if if_version is not None:
            headers["If-Match"] = f'"{if_version}"'
        if body is not None:
            headers["Content-Type"] = media_type
        content = body if body is None or isinstance(body, bytes) else encode(body)
        return self.call(Request(method, path, headers, content), parse)


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Raises ValueError for what a header can't hold."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"{name}: not printable ASCII")
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]


async def read_in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Pieces of a file, read without holding up the event loop."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


def encode(body: Any) -> bytes:
    """JSON; NaN and infinity raise ValueError, because JSON has none."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def add_query(path: str, parameters: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(parameters, quote_via=quote)}" if parameters else path


def user_path(user: UserRef, action: str = "") -> str:
    """Raises ValueError if a text is no UUID: it would be another path."""
    return f"{USERS}/{user_id(user)}{action}"


def user_id(user: UserRef) -> str:
    return user.id if isinstance(user, User) else str(UUID(str(user)))


def expected_version(user: UserRef, if_version: int | None) -> int | None:
    """The version for If-Match: the given one, else that of the user as it was read."""
    return user.version if if_version is None and isinstance(user, User) else if_version


def external_id_path(external_id: str) -> str:
    """`.` and `..` are encoded too: in a path they would be something else."""
    if not external_id:
        raise ValueError("external_id: empty")
    quoted = external_id.replace(".", "%2E") if external_id in {".", ".."} else quote(external_id, safe="")
    return f"{USERS}/by-external-id/{quoted}"


def filter_parameters(filters: Mapping[str, Any]) -> dict[str, str]:
    """The query of a list or an export. Raises ValueError for a time without a zone."""
    parameters: dict[str, str] = {}
    for name, value in filters.items():
        if name == "metadata":
            parameters |= {f"metadata.{key}": scalar_text(item) for key, item in value.items()}
        elif name == "include_deleted":
            parameters |= {"include": "deleted"} if value else {}
        elif isinstance(value, datetime):
            if value.tzinfo is None:
                raise ValueError(f"{name}: a time without a zone")
            parameters[name] = value.isoformat()
        elif value is not None:
            parameters[name] = value
    return parameters


def scalar_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
