"""The service behind its real HTTP server, in a thread of the test process, on a free port."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import uvicorn

from support.settings import API_KEY
from user_service.app import Application
from user_service.bootstrap import Resources
from user_service.server.run import uvicorn_config
from user_service.settings import Settings

START_SECONDS = 30.0


class LiveServer:
    """A running server; `client` carries an API key unless told otherwise."""

    def __init__(self, application: Application, port: int) -> None:
        self.application = application
        self.port = port

    @property
    def metrics(self) -> Any:
        return self.application.resources.metrics

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers=headers or {"X-API-Key": API_KEY},
            timeout=60,
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@contextmanager
def live(settings: Settings, *, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Iterator[LiveServer]:
    """Starts the service on this machine, by default on a free port, and stops it. `options` go to Resources."""
    settings = replace(settings, host=host, port=port)
    application = Application(Resources(settings, **options))
    server = uvicorn.Server(uvicorn_config(application, settings))
    thread = threading.Thread(target=server.run, name="live-server")
    thread.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield LiveServer(application, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


def read_until_closed(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset counts as a close."""
    received = []
    try:
        while chunk := connection.recv(65536):
            received.append(chunk)
    except ConnectionError:
        pass
    return b"".join(received)
