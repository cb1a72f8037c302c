"""HTTP/1.1 connections with bounds on time and size, and one write per response, on uvicorn's httptools protocol.

uvicorn itself waits for a slow client for ever, accepts request heads of any size, and writes the head and the body of
a response separately: two system calls, each of which wakes the client.

A connection is closed when a head is not complete in time, when a body arrives too slowly, or when a body still
arrives long after its response. Time in which this side does not read is not counted.

`begin_request` and `on_response_complete` copy private code of uvicorn; tests/server/test_uvicorn_copies.py fails when
the originals change.
"""

import asyncio
import json
import re
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from httptools import parse_url
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from user_service.observability.logging import log
from user_service.observability.trace_context import choose_request_id, continue_trace
from user_service.settings import Settings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
MIN_BODY_BYTES_PER_SECOND: Final = 512
# The kernel gives up a peer that acknowledges nothing for this long (tcp(7), Linux).
UNACKNOWLEDGED_MILLISECONDS: Final = 60_000
CONTROL_CHARACTERS: Final = bytes({*range(0x20), 0x7F} - {0x09})
STATUSES_WITHOUT_BODY: Final = frozenset({204, 304})
# `uri-host [ ":" port ]` (RFC 3986, 3.2.2; RFC 9110, 7.2); empty where the target has no authority.
HOST: Final = re.compile(rb"(?:\[[0-9A-Za-z:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?")
INVALID_HOST: Final = "Send one Host header with a host and, where it is not the default, a port."


class HeadRefused(Exception):
    """Ends the parser: a request head is over its bound, or has not one valid Host."""


class OneWriteCycle(RequestResponseCycle):
    """One request and its response. Writes head and body together where the body is one message.

    A response that is streamed, has no length or is malformed is left to uvicorn.
    """

    # The response's start, until the first message of its body.
    start: dict[str, Any] | None = None

    async def run_asgi(self, app: "ASGI3Application") -> None:
        self.app = app
        await super().run_asgi(self.run_application)

    async def run_application(self, scope: Any, receive: Any, send: Any) -> None:
        """Runs the application, which has answered, and logged, its own errors and the server's cancellation."""
        with suppress(asyncio.CancelledError):
            await self.app(scope, receive, send)
        if self.response_started and not self.response_complete:
            # The application has cut its response: the client sees that by the end of the connection.
            self.disconnected = True
            self.transport.close()

    async def send(self, message: "ASGISendEvent") -> None:
        if message["type"] == "http.response.start" and not self.response_started:
            self.start = message  # type: ignore[assignment]
            return
        if self.start is not None:
            start, self.start = self.start, None
            if message["type"] == "http.response.body" and not message.get("more_body"):
                response = self.encode(start, message.get("body", b""))
                if response is not None and not self.flow.write_paused and not self.disconnected:
                    self.finish(response)
                    return
            await super().send(start)  # type: ignore[arg-type]
        await super().send(message)

    def encode(self, start: dict[str, Any], body: bytes) -> bytes | None:
        """The bytes of a response; None for one that uvicorn has to frame or refuse."""
        status = start["status"]
        headers = [*self.default_headers, *start.get("headers", ())]
        by_name = dict(headers)
        if b"connection" in by_name or b"transfer-encoding" in by_name:
            return None
        if self.scope["method"] == "HEAD":
            body = b""
        elif by_name.get(b"content-length") != (None if status in STATUSES_WITHOUT_BODY else b"%d" % len(body)):
            return None
        if not self.keep_alive:
            headers.append((b"connection", b"close"))
        lines = b"\r\n".join(map(b": ".join, headers))
        # Only the line ends may be control characters; any other could add a header line of its own.
        if len(lines.translate(None, CONTROL_CHARACTERS)) != len(lines) - 2 * (len(headers) - 1):
            return None
        return b"%b%b\r\n\r\n%b" % (STATUS_LINE[status], lines, body)

    def finish(self, response: bytes) -> None:
        self.response_started = self.response_complete = True
        self.transport.write(response)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `bounded_protocol` sets the class attributes, which are seconds, a number, and a switch."""

    head_timeout: float
    body_timeout: float
    max_connections: int
    logs_refusals: bool

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Ends the wait for a head or a body, which `awaited` (a scope or a cycle) tells apart.
        self.timer: asyncio.TimerHandle | None = None
        self.awaited: object = None
        # The bytes since the last complete head: no fewer than the next head has.
        self.head_bytes = 0
        self.unfinished_bytes = 0
        self.body_bytes = 0
        self.refusal = HTTPStatus.BAD_REQUEST
        self.refusal_detail: str | None = None
        # The Host of an earlier request on this connection, which is valid.
        self.known_host: bytes | None = None
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
        self.stop_timer()
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
            self.continue_head(len(data))
        elif cycle.more_body:
            if self.awaited is not cycle:
                self.wait_for_body()
        elif not cycle.response_complete:
            self.stop_timer()
        elif self.timer is None:
            # Bytes that begin no request have ended uvicorn's wait for the next one; it goes on here.
            self.wait_for_head()

    def continue_head(self, more_bytes: int) -> None:
        if self.awaited is not self.scope:
            self.unfinished_bytes = 0
            self.wait_for_head()
            return
        self.unfinished_bytes += more_bytes
        if self.unfinished_bytes > MAX_HEAD_BYTES:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or (self.head_bytes > MAX_HEAD_BYTES and self.head_size > MAX_HEAD_BYTES):
            self.refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise HeadRefused
        self.check_host()
        self.head_bytes = 0
        self.begin_request()

    def check_host(self) -> None:
        """Raises HeadRefused unless there is one valid Host (RFC 9112, 3.2); HTTP/1.0 may leave it out."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) == 1 and (hosts[0] == self.known_host or HOST.fullmatch(hosts[0].strip(b" \t"))):
            self.known_host = hosts[0]
        elif hosts or self.parser.get_http_version() != "1.0":
            self.refusal_detail = INVALID_HOST
            raise HeadRefused

    @property
    def head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def begin_request(self) -> None:
        """As uvicorn's `on_headers_complete`, without upgrades and without uvicorn's own bound on concurrency."""
        parser, scope, url = self.parser, self.scope, parse_url(self.url)
        version = parser.get_http_version()
        # In absolute form, the path may be empty (RFC 9112, 3.2.2; RFC 9110, 4.2.3).
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = url.query or b""
        previous: RequestResponseCycle | None = self.cycle
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
        if previous is None or previous.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_response_complete(self) -> None:
        """As uvicorn's, with one timer for all idle times of a connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.idle_since = self.loop.time()
        if self.idle_timer is None:
            self.idle_timer = self.loop.call_later(self.timeout_keep_alive, self.close_if_idle)

    def close_if_idle(self) -> None:
        is_idle = self.cycle.response_complete and self.timer is None
        rest = self.idle_since + self.timeout_keep_alive - self.loop.time() if is_idle else self.timeout_keep_alive
        if rest > 0:
            self.idle_timer = self.loop.call_later(rest, self.close_if_idle)
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.refusal)

    def wait_for_head(self) -> None:
        self.stop_timer()
        self.awaited = self.scope
        self.timer = self.loop.call_later(self.head_timeout, self.refuse_late_head)

    def refuse_late_head(self) -> None:
        if self.flow.read_paused or self.pipeline:
            self.wait_for_head()
        else:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)

    def wait_for_body(self) -> None:
        self.stop_timer()
        self.awaited, self.body_bytes = self.cycle, 0
        self.timer = self.loop.call_later(self.body_timeout, self.refuse_slow_body)

    def refuse_slow_body(self) -> None:
        is_fast_enough = self.body_bytes >= MIN_BODY_BYTES_PER_SECOND * self.body_timeout
        if (is_fast_enough or self.flow.read_paused) and not self.cycle.response_complete:
            self.wait_for_body()
        else:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)

    def stop_timer(self) -> None:
        self.awaited = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def refuse(self, status: HTTPStatus) -> None:
        """Closes the connection, after a response where it can't be taken for the response to another request."""
        self.stop_timer()
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or (cycle.response_complete and cycle.scope is not self.scope):
            self.write_refusal(status)
        elif cycle.scope is self.scope and not cycle.response_started:
            self.write_refusal(status)
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def write_refusal(self, status: HTTPStatus) -> None:
        """Writes a response with the ids that the head has, as far as it was read, or with new ones."""
        headers = dict(self.headers or ())
        request_id = choose_request_id(headers.get(b"x-request-id"))
        traceparent = continue_trace(headers.get(b"traceparent"))
        detail = self.refusal_detail or status.description or status.phrase
        self.transport.write(encode_refusal(status, detail, request_id.decode(), traceparent.decode()))
        if self.logs_refusals:
            log.info("a connection was refused", extra={"status": int(status), "request_id": request_id.decode()})


def bounded_protocol(settings: Settings) -> type[BoundedProtocol]:
    """The protocol with the bounds of these settings."""
    bounds = {name: getattr(settings, name) for name in ("head_timeout", "body_timeout", "max_connections")}
    return type("BoundedProtocol", (BoundedProtocol,), {**bounds, "logs_refusals": settings.access_log})


def encode_refusal(status: HTTPStatus, detail: str, request_id: str, traceparent: str) -> bytes:
    """A whole response with a problem document (RFC 9457) that closes the connection."""
    code = {400: "malformed_request", 408: "request_too_slow", 431: "head_too_large", 503: "overloaded"}[status]
    problem = {
        "type": f"urn:user-service:problem:{code}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
        "request_id": request_id,
        "errors": [],
    }
    body = json.dumps(problem).encode()
    retry = "retry-after: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {int(status)} {status.phrase}\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n{retry}cache-control: no-store\r\nx-request-id: {request_id}\r\n"
        f"traceparent: {traceparent}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def limit_unacknowledged(transport: asyncio.Transport) -> None:
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.family != getattr(socket, "AF_UNIX", None) and hasattr(socket, "TCP_USER_TIMEOUT"):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MILLISECONDS)
