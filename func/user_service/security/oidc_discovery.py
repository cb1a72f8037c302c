"""The endpoints at which persons sign in to an issuer (OpenID Connect Discovery 1.0), cached for an hour."""

import asyncio
from http.client import HTTPException
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from user_service.errors import IssuerUnavailable
from user_service.observability.logging import log
from user_service.security.downloads import download

WELL_KNOWN: Final = "/.well-known/openid-configuration"
CACHE_SECONDS: Final = 3600.0
PAUSE_AFTER_FAILURE_SECONDS: Final = 2.0
MAX_URL: Final = 2048


class OidcEndpoints(NamedTuple):
    authorization: str
    token: str

    @property
    def token_origin(self) -> str:
        parts = urlsplit(self.token)
        return f"{parts.scheme}://{parts.netloc}"


class OidcDiscovery:
    """Reads the endpoints of an issuer when they are asked for."""

    def __init__(self, issuer: str, ca_file: Path | None = None) -> None:
        self.issuer = issuer
        self.ca_file = ca_file
        self.endpoints: OidcEndpoints | None = None
        self.fresh_until = 0.0
        self.retry_at = 0.0
        self.lock = asyncio.Lock()

    async def find(self) -> OidcEndpoints:
        """Raises IssuerUnavailable. While the issuer can't be read, the endpoints that were read before count."""
        async with self.lock:
            if monotonic() >= self.fresh_until and monotonic() >= self.retry_at:
                await self.refresh()
        if self.endpoints is None:
            raise IssuerUnavailable
        return self.endpoints

    async def refresh(self) -> None:
        url = self.issuer.rstrip("/") + WELL_KNOWN
        try:
            self.endpoints = parse_endpoints(await asyncio.to_thread(download, url, self.ca_file), self.issuer)
            self.fresh_until = monotonic() + CACHE_SECONDS
        except (OSError, ValueError, HTTPException) as error:
            self.retry_at = monotonic() + PAUSE_AFTER_FAILURE_SECONDS
            host, reason = urlsplit(url).hostname, type(error).__name__
            log.warning("the endpoints of an issuer can't be read", extra={"host": host, "reason": reason})


def parse_endpoints(document: bytes, issuer: str) -> OidcEndpoints:
    """Raises ValueError for a document of another issuer, and for endpoints that are no URLs."""
    content = orjson.loads(document)
    if not isinstance(content, dict) or content.get("issuer") != issuer:
        raise ValueError("a document of another issuer")
    endpoints = OidcEndpoints(content.get("authorization_endpoint", ""), content.get("token_endpoint", ""))
    if not all(is_web_url(url, secure=issuer.startswith("https:")) for url in endpoints):
        raise ValueError("an endpoint is no URL")
    return endpoints


def is_web_url(text: Any, *, secure: bool) -> bool:
    """Whether a text is a URL that may stand in a Content-Security-Policy; https where the issuer has it."""
    if not isinstance(text, str) or len(text) > MAX_URL or not text.isascii() or not text.isprintable():
        return False
    parts = urlsplit(text)
    is_plain = not set(parts.netloc) & set(" ;,'\"@")
    return parts.scheme in ({"https"} if secure else {"https", "http"}) and bool(parts.hostname) and is_plain
