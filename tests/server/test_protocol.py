"""Answers as they leave on a connection: whole ones in one write, and every other framing as HTTP has it."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from support.live_server import read_until_closed
from user_service.server.protocol import bounded_protocol
from user_service.settings import Settings

Send = Any
JSON = (b"content-type", b"application/json")


def length(size: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % size)


class Application:
    """Answers in each of the ways that ASGI allows, and in some that it does not."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.told: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        await getattr(self, scope["path"].strip("/"))(receive, send)

    async def whole(self, receive: Any, send: Send) -> None:
        await answer(send, 200, [JSON, length(5)], b"12345")

    async def listed(self, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [list(JSON), list(length(2))]})
        await send({"type": "http.response.body", "body": b"ab"})

    async def nothing(self, receive: Any, send: Send) -> None:
        await answer(send, 204, [], b"")

    async def unchanged(self, receive: Any, send: Send) -> None:
        await answer(send, 304, [(b"etag", b'"3"')], b"")

    async def unsized(self, receive: Any, send: Send) -> None:
        await answer(send, 200, [JSON], b"12345")

    async def last(self, receive: Any, send: Send) -> None:
        await answer(send, 200, [length(2), (b"connection", b"close")], b"ab")

    async def streamed(self, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [JSON]})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.to_thread(self.may_go_on.wait, 60)
        await send({"type": "http.response.body", "body": b"second", "more_body": True})
        await send({"type": "http.response.body"})

    async def parts(self, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [length(6)]})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b"def"})

    async def short(self, receive: Any, send: Send) -> None:
        await answer(send, 200, [length(9)], b"12345")

    async def long(self, receive: Any, send: Send) -> None:
        await answer(send, 200, [length(2)], b"12345")

    async def injected(self, receive: Any, send: Send) -> None:
        await answer(send, 200, [(b"x-told", b"a\r\nset-cookie: b"), length(5)], b"12345")

    async def failed(self, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [length(5)]})
        raise RuntimeError("no body")

    async def broken_off(self, receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [length(5)]})
        await send({"type": "http.response.body", "body": b"12", "more_body": True})
        raise RuntimeError("no more body")

    async def twice(self, receive: Any, send: Send) -> None:
        await answer(send, 200, [length(5)], b"12345")
        await answer(send, 200, [length(5)], b"67890")

    async def echo(self, receive: Any, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await answer(send, 200, [length(len(body))], body)

    async def gone(self, receive: Any, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [length(2)]})
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"ab"})
        self.told.append("gone")


async def answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Recorder:
    """A transport that records what is written."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self.transport = transport
        self.writes = writes

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class Site:
    """The application behind its own server, in a thread."""

    def __init__(self, *, keep_alive_seconds: int = 60) -> None:
        self.application = Application()
        self.writes: list[bytes] = []
        writes = self.writes

        class Recorded(bounded_protocol(Settings())):  # type: ignore[misc]
            def connection_made(self, transport: asyncio.Transport) -> None:
                super().connection_made(Recorder(transport, writes))

        self.server = uvicorn.Server(
            uvicorn.Config(
                self.application,
                host="127.0.0.1",
                port=0,
                http=Recorded,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=keep_alive_seconds,
            )
        )

    def connect(self) -> socket.socket:
        address: tuple[str, int] = self.server.servers[0].sockets[0].getsockname()[:2]
        return socket.create_connection(address, timeout=60)

    def ask(self, path: str, *, method: str = "GET", head: str = "", body: bytes = b"", close: bool = True) -> bytes:
        """What comes until the server closes."""
        end = "Connection: close\r\n" if close else ""
        with self.connect() as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{head}{end}\r\n".encode() + body)
            return read_until_closed(connection)


@contextmanager
def running(site: Site) -> Iterator[Site]:
    thread = threading.Thread(target=site.server.run)
    thread.start()
    try:
        while not site.server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield site
    finally:
        site.application.may_go_on.set()
        site.server.should_exit = True
        thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    with running(Site()) as site:
        yield site


OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = b"connection: close\r\n"
TYPE = b"content-type: application/json\r\n"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/whole", OK + TYPE + b"content-length: 5\r\n" + CLOSE + b"\r\n12345"),
        ("HEAD", "/whole", OK + TYPE + b"content-length: 5\r\n" + CLOSE + b"\r\n"),
        ("GET", "/listed", OK + TYPE + b"content-length: 2\r\n" + CLOSE + b"\r\nab"),
        ("GET", "/nothing", b"HTTP/1.1 204 No Content\r\n" + CLOSE + b"\r\n"),
        ("GET", "/unchanged", b'HTTP/1.1 304 Not Modified\r\netag: "3"\r\n' + CLOSE + b"\r\n"),
        ("HEAD", "/unsized", OK + TYPE + CLOSE + b"\r\n"),
    ],
)
def test_a_whole_response_is_one_write(site: Site, method: str, path: str, expected: bytes) -> None:
    assert site.ask(path, method=method) == expected
    assert site.writes == [expected]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/unsized", OK + TYPE + CLOSE + b"transfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"),
        ("GET", "/parts", OK + b"content-length: 6\r\n" + CLOSE + b"\r\nabcdef"),
        ("HEAD", "/parts", OK + b"content-length: 6\r\n" + CLOSE + b"\r\n"),
        ("GET", "/last", OK + b"content-length: 2\r\n" + CLOSE + b"\r\nab"),
    ],
)
def test_every_other_response_is_framed_as_it_was(site: Site, method: str, path: str, expected: bytes) -> None:
    assert site.ask(path, method=method) == expected


def test_a_stream_does_not_wait_for_its_end(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET /streamed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while not received.endswith(b"5\r\nfirst\r\n"):
            received += connection.recv(65536)
        site.application.may_go_on.set()
        rest = read_until_closed(connection)

    assert b"transfer-encoding: chunked" in received
    assert rest == b"6\r\nsecond\r\n0\r\n\r\n"


def test_a_kept_connection_is_answered_again_and_pipelines_keep_their_order(site: Site) -> None:
    paths = ["whole", "parts", "nothing", "unchanged", "unsized", "whole"]
    requests = [f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths[:-1]]
    with site.connect() as connection:
        connection.sendall("".join(requests).encode())
        connection.sendall(f"GET /{paths[-1]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = read_until_closed(connection)

    statuses = [part.split()[0] for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"204", b"304", b"200", b"200"]
    assert received.count(CLOSE) == 1


def test_a_connection_is_closed_when_it_was_idle_and_not_while_it_is_used() -> None:
    with running(Site(keep_alive_seconds=1)) as site, site.connect() as used, site.connect() as idle:
        for connection in (used, idle):
            connection.sendall(b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n")
        used.recv(65536)
        used.sendall(b"GET /streamed HTTP/1.1\r\nHost: x\r\n\r\n")
        received = read_until_closed(idle)
        site.application.may_go_on.set()
        streamed = read_until_closed(used)

    assert received.endswith(b"\r\n\r\n12345")
    assert streamed.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/whole?a=b%20c", "/%77hole", "/whole#part"])
def test_an_address_reaches_the_application_decoded(site: Site, path: str) -> None:
    assert site.ask(path).endswith(b"12345")


def test_an_upgrade_is_not_taken_up(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET /whole HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        received = connection.recv(65536)

    assert received.startswith(OK)


def test_http_1_0_is_answered_and_closed(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET /whole HTTP/1.0\r\n\r\n")
        received = read_until_closed(connection)

    assert received == OK + TYPE + b"content-length: 5\r\n" + CLOSE + b"\r\n12345"


def test_a_client_that_expects_100_continue_gets_it_before_the_response(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        interim = connection.recv(65536)
        connection.sendall(b"abc")
        received = b""
        while not received.endswith(b"abc"):
            received += connection.recv(65536)

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert received == OK + b"content-length: 3\r\n\r\nabc"


def test_a_client_that_is_answered_at_once_gets_no_100_continue(site: Site) -> None:
    received = site.ask("/whole", method="POST", head="Expect: 100-continue\r\nContent-Length: 3\r\n")

    assert received.startswith(OK)
    assert b"100 Continue" not in received


def test_a_client_that_left_is_noticed_while_the_head_is_held(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(b"GET /gone HTTP/1.1\r\nHost: x\r\n\r\n")
    deadline = time.monotonic() + 60
    while not site.application.told:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert site.writes == []
    assert site.ask("/whole").startswith(OK)


def test_an_error_before_the_body_is_answered_500(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    received = site.ask("/failed")

    assert received.startswith(b"HTTP/1.1 500 ")
    assert "Exception in ASGI application" in caplog.text


def test_a_value_can_not_make_up_a_line(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    received = site.ask("/injected")

    assert received == b""
    assert "Invalid HTTP header value" in caplog.text


@pytest.mark.parametrize("path", ["/short", "/long", "/broken_off", "/twice"])
def test_a_response_that_breaks_its_content_length_ends_the_connection(
    site: Site, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    received = site.ask(path, close=False)

    assert received.startswith(OK)
    assert b"67890" not in received
    assert "Exception in ASGI application" in caplog.text


def test_a_large_response_to_a_slow_reader_arrives_whole(site: Site) -> None:
    body = bytes(range(256)) * 20_000
    with site.connect() as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
        time.sleep(0.1)
        received = read_until_closed(connection)

    assert received.partition(b"\r\n\r\n")[2] == body
