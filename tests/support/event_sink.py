"""A real HTTP sink for tests: takes CloudEvents on a port of its own, and does as it is told."""

import ssl
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from support.http_server import serving_http

Answer = Callable[["Received"], int]


class Received:
    """One request as it arrived."""

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body

    @property
    def id(self) -> str:
        return self.headers["ce-id"]

    @property
    def user_id(self) -> str:
        return self.headers["ce-subject"]

    @property
    def version(self) -> int:
        return int(self.headers["ce-sequence"])

    @property
    def data(self) -> Any:
        return orjson.loads(self.body)


class Sink:
    """`answer` gives the status of each request; what was answered with 2xx is in `taken`, all in `seen`."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.scheme = "https" if certificate else "http"
        self.answer: Answer = lambda _: 204
        self.seen: list[Received] = []
        self.taken: list[Received] = []
        self.arrived = threading.Condition()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                received = Received({name.lower(): value for name, value in self.headers.items()}, body)
                status = sink.answer(received)
                with sink.arrived:
                    sink.seen.append(received)
                    if 200 <= status < 300:
                        sink.taken.append(received)
                    sink.arrived.notify_all()
                self.send_response(status)
                self.send_header("content-length", "0")
                if status == 302:
                    self.send_header("location", sink.url)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake belongs to the thread of the request, not to the one that accepts.
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
            )
            self.server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}/"

    def wait_for(self, count: int, *, seconds: float = 30) -> list[Received]:
        """Waits until so many events were taken."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.taken) >= count, seconds), (
                f"only {len(self.taken)} of {count}"
            )
            return list(self.taken)

    def versions(self) -> dict[str, list[int]]:
        """The versions of each user that were taken, in the order of their first arrival."""
        found: dict[str, list[int]] = defaultdict(list)
        for received in self.taken:
            if received.version not in found[received.user_id]:
                found[received.user_id].append(received.version)
        return dict(found)


@contextmanager
def running_sink(*, certificate: Path | None = None) -> Iterator[Sink]:
    sink = Sink(certificate)
    with serving_http(sink.server):
        yield sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink
