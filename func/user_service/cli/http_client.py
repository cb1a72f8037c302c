"""The client of a running service, for the commands that work over HTTP."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from user_service.errors import CommandFailed, ConfigurationError
from user_service.settings import Settings

# For one read of a response: the length of an import or an export is not bounded.
READ_SECONDS: Final = 300
PIECE_BYTES: Final = 256 * 1024


class RequestRefused(CommandFailed):
    """The service refused a request or did not respond; the message says why."""

    exit_status = 3


class ServiceClient:
    """Requests to /api/v1/users of the service at `url`, such as http://localhost:3002."""

    def __init__(self, url: str, api_key: str) -> None:
        self.url = url
        self.base = url.rstrip("/") + "/api/v1/users"
        self.api_key = api_key

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a request; an iterator is sent while it is read. Raises RequestRefused."""
        session = aiohttp.ClientSession(
            headers={"X-API-Key": self.api_key},
            timeout=aiohttp.ClientTimeout(sock_read=READ_SECONDS),
            read_bufsize=PIECE_BYTES,
        )
        try:
            async with (
                session,
                session.request(
                    method, self.base + path, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                if response.status >= 300:
                    raise RequestRefused(await describe_refusal(response))
                yield response
        except (aiohttp.ClientPayloadError, TimeoutError) as error:
            raise RequestRefused(f"The response was cut off ({type(error).__name__}).") from None
        except aiohttp.ClientError as error:
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            raise RequestRefused(
                f"No response from {self.url} ({type(cause).__name__}). Check that the service runs there, or pass "
                "another --url. The same command resumes an import."
            ) from None


def open_client(url: str | None, api_key: str | None, environ: Mapping[str, str]) -> ServiceClient:
    """The client of `url`, or of the service on this machine. Raises ConfigurationError."""
    url = url or f"http://localhost:{environ.get('PORT') or Settings().port}"
    api_key = api_key or environ.get("USER_SERVICE_API_KEY")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(f"--url: {url} is not an address such as http://localhost:3002")
    if not api_key:
        raise ConfigurationError("--api-key: give the service's API key, or set USER_SERVICE_API_KEY")
    return ServiceClient(url, api_key)


async def describe_refusal(response: aiohttp.ClientResponse) -> str:
    """The problem document of a response (RFC 9457), with a line for each of its faults."""
    try:
        problem = orjson.loads(await response.read())
        errors = "".join(f"\n- {error['pointer']} {error['detail']}" for error in problem["errors"])
        return f"{response.status} {problem['code']}: {problem['detail']}{errors}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"The response was {response.status} {response.reason}, and not one of this service."
