"""Cross-origin requests of browsers (Fetch standard, 3.3), for the origins of `CORS_ORIGINS`; without a framework.

Credentials are headers, never cookies, so `Access-Control-Allow-Credentials` is not sent.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

from user_service.web.responses import RawResponse

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_AGE_SECONDS: Final = 600
METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE"
REQUEST_HEADERS: Final = (
    b"Authorization, Cache-Control, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-API-Key, X-Change-Reason,"
    b" X-Request-ID, traceparent, tracestate"
)
EXPOSED: Final = (
    b"access-control-expose-headers",
    b"ETag, Location, Link, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID, Idempotency-Replayed, traceparent",
)
# A cache must not give the response to one origin to another.
VARY: Final = (b"vary", b"Origin")


class Cors:
    """Answers preflights, and lets the named origins read responses."""

    def __init__(self, origins: Iterable[str]) -> None:
        self.origins = {origin.encode() for origin in origins}

    def answer_preflight(self, method: str, headers: Mapping[bytes, bytes]) -> RawResponse | None:
        """The response to a preflight of a named origin, which has no credentials; None for any other request."""
        if method != "OPTIONS" or b"access-control-request-method" not in headers:
            return None
        if headers.get(b"origin") not in self.origins:
            return None
        return RawResponse(
            204,
            (
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", REQUEST_HEADERS),
                (b"access-control-max-age", b"%d" % MAX_AGE_SECONDS),
            ),
            b"",
        )

    def share(self, lines: Iterable[tuple[bytes, bytes]], send: Send) -> Send:
        """`send` with the headers that let the origin of a request read the response, where it is a named one."""
        origins = [value for name, value in lines if name == b"origin"]
        added = [VARY]
        if len(origins) == 1 and origins[0] in self.origins:
            added += [(b"access-control-allow-origin", origins[0]), EXPOSED]

        async def send_shared(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        return send_shared
