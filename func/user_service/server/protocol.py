"""HTTP connections within bounds: uvicorn's own protocol waits for a slow sender for ever and takes heads of any size.

A connection is closed when a head is not there in time, when a body makes no headway, or when a body still comes long
after its answer. What is slow on this side, with reading paused, is not held against the sender.
"""

import asyncio
import json
import socket
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

from httptools import parse_url
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from user_service.server.cycle import OneWriteCycle
from user_service.settings import Settings

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
MIN_BODY_BYTES_PER_SECOND: Final = 512
# A peer that takes nothing in is given up by the kernel after this long (tcp(7), Linux).
UNACKNOWLEDGED_MILLISECONDS: Final = 60_000


class HeadTooLarge(Exception):
    """A head over its bound; leaves the parser."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. The class attributes are seconds and connections; `bounded` sets them."""

    head_timeout: float
    body_timeout: float
    max_connections: int

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.watch: asyncio.TimerHandle | None = None
        self.watched: object = None
        # What came since the last head was complete: at least as much as the next head has.
        self.head_bytes = 0
        self.unfinished_bytes = 0
        self.body_bytes = 0
        self.refusal = HTTPStatus.BAD_REQUEST
        self.idle_since = 0.0
        self.idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        limit_unacknowledged(transport)
        self.wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_watching()
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.head_bytes += len(data)
        self.body_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or self.scope is not cycle.scope:
            self.head_goes_on(len(data))
        elif cycle.more_body:
            if self.watched is not cycle:
                self.wait_for_body()
        elif not cycle.response_complete:
            self.stop_watching()
        elif self.watch is None:
            # Something came that begins no request, and ended the wait for the next one: go on waiting here.
            self.wait_for_head()

    def head_goes_on(self, more: int) -> None:
        if self.watched is not self.scope:
            self.unfinished_bytes = 0
            self.wait_for_head()
            return
        self.unfinished_bytes += more
        if self.unfinished_bytes > MAX_HEAD_BYTES:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or (
            self.head_bytes > MAX_HEAD_BYTES and self.size_of_head() > MAX_HEAD_BYTES
        ):
            self.refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise HeadTooLarge
        self.head_bytes = 0
        self.begin_request()

    def begin_request(self) -> None:
        """As uvicorn does, but for an upgrade, which there is none to, and for its own bound on concurrency."""
        parser, scope, url = self.parser, self.scope, parse_url(self.url)
        version = parser.get_http_version()
        path = url.path.decode("ascii")
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        former: RequestResponseCycle | None = self.cycle
        self.cycle = OneWriteCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if former is None or former.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_response_complete(self) -> None:
        """As uvicorn does, but with one timer for all the idle times of a connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.idle_since = self.loop.time()
        if self.idle_timer is None:
            self.idle_timer = self.loop.call_later(self.timeout_keep_alive, self.look_whether_idle)

    def look_whether_idle(self) -> None:
        idle = self.cycle.response_complete and self.watch is None
        rest = self.idle_since + self.timeout_keep_alive - self.loop.time() if idle else self.timeout_keep_alive
        if rest > 0:
            self.idle_timer = self.loop.call_later(rest, self.look_whether_idle)
        else:
            self.transport.close()

    def size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.refusal)

    def wait_for_head(self) -> None:
        self.stop_watching()
        self.watched = self.scope
        self.watch = self.loop.call_later(self.head_timeout, self.head_is_late)

    def head_is_late(self) -> None:
        if self.flow.read_paused or self.pipeline:
            self.wait_for_head()
        else:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)

    def wait_for_body(self) -> None:
        self.stop_watching()
        self.watched, self.body_bytes = self.cycle, 0
        self.watch = self.loop.call_later(self.body_timeout, self.look_at_body)

    def look_at_body(self) -> None:
        answered = self.cycle.response_complete
        enough = self.body_bytes >= MIN_BODY_BYTES_PER_SECOND * self.body_timeout
        if (enough or self.flow.read_paused) and not answered:
            self.wait_for_body()
        else:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)

    def stop_watching(self) -> None:
        self.watched = None
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    def refuse(self, status: HTTPStatus) -> None:
        """Says why, where that can't be taken for the answer to another request, and closes."""
        self.stop_watching()
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or (cycle.response_complete and cycle.scope is not self.scope):
            self.transport.write(refusal_of(status))
        elif cycle.scope is self.scope and not cycle.response_started:
            self.transport.write(refusal_of(status))
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()


def bounded(settings: Settings) -> type[BoundedProtocol]:
    """The protocol with the bounds of these settings."""
    bounds = {name: getattr(settings, name) for name in ("head_timeout", "body_timeout", "max_connections")}
    return type("BoundedProtocol", (BoundedProtocol,), bounds)


def refusal_of(status: HTTPStatus) -> bytes:
    """A whole response with a problem document (RFC 9457), after which the connection is closed."""
    code = {400: "malformed_request", 408: "request_too_slow", 431: "head_too_large", 503: "overloaded"}[status]
    problem = {
        "type": f"urn:user-service:problem:{code}",
        "title": status.phrase,
        "status": int(status),
        "detail": status.description or status.phrase,
        "code": code,
        "request_id": "none",
        "errors": [],
    }
    body = json.dumps(problem).encode()
    retry = "retry-after: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n{retry}cache-control: no-store\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def limit_unacknowledged(transport: asyncio.Transport) -> None:
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.family != getattr(socket, "AF_UNIX", None) and hasattr(socket, "TCP_USER_TIMEOUT"):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MILLISECONDS)
