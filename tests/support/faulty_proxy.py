"""A proxy in front of a service that loses, repeats, delays and damages what it carries, one request a connection."""

import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle

PIECE_BYTES = 65536
SLOW_SECONDS = 1.5
END_OF_HEAD = b"\r\n\r\n"


class FaultyProxy:
    """Each new connection takes the next fault of `faults`, again and again.

    `none` carries one request and its response. `drop` closes before the request is read. `cut` passes the request on
    and resets when the response comes; `cut_response` after half of it; `cut_upload` after 200 KB of a request. `delay`
    passes the request on and never responds; `slow` gives the response after 1.5 seconds. `repeat` sends the request
    twice and gives the second response. Bytes are the response themselves, and the request does not reach the service.
    """

    def __init__(self, target_port: int, faults: Sequence[str | bytes]) -> None:
        self.target_port = target_port
        self.faults = cycle(faults)
        self.taken: list[str | bytes] = []
        self.is_over = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            fault = next(self.faults)
            self.taken.append(fault)
            thread = threading.Thread(target=self.serve, args=[connection, fault])
            self.threads.append(thread)
            thread.start()

    def serve(self, connection: socket.socket, fault: str | bytes) -> None:
        connection.settimeout(60)
        with connection, suppress(OSError):
            if fault == "drop":
                return
            head = read_head(connection)
            if head is None:
                return
            if isinstance(fault, bytes):
                connection.sendall(fault)
                return
            if fault == "repeat":
                request = read_whole(connection, head)
                self.ask(request)
                connection.sendall(self.ask(request))
                return
            self.carry(connection, head, fault)

    def ask(self, request: bytes) -> bytes:
        """The response of the service to a whole request."""
        with socket.create_connection(("127.0.0.1", self.target_port), timeout=60) as service:
            service.sendall(request)
            return b"".join(iter(lambda: service.recv(PIECE_BYTES), b""))

    def carry(self, connection: socket.socket, head: bytes, fault: str) -> None:
        with socket.create_connection(("127.0.0.1", self.target_port), timeout=60) as service:
            limit = 200_000 if fault == "cut_upload" else None
            service.sendall(head)
            upload = threading.Thread(target=self.copy_request, args=[connection, service, limit])
            upload.start()
            try:
                response = service.recv(PIECE_BYTES)
                if fault == "delay":
                    self.is_over.wait(60)
                elif fault == "cut_response":
                    connection.sendall(response[: len(response) // 2])
                elif fault in {"none", "slow"}:
                    self.is_over.wait(SLOW_SECONDS if fault == "slow" else 0)
                    while response:
                        connection.sendall(response)
                        response = service.recv(PIECE_BYTES)
            finally:
                if fault in {"cut", "cut_upload"}:
                    reset(connection)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                upload.join()

    def copy_request(self, connection: socket.socket, service: socket.socket, limit: int | None) -> None:
        """The rest of a request; at the limit both connections end."""
        copied = 0
        with suppress(OSError):
            while piece := connection.recv(PIECE_BYTES):
                service.sendall(piece)
                copied += len(piece)
                if limit is not None and copied > limit:
                    break
            else:
                return
        if limit is not None:
            reset(connection)
            with suppress(OSError):
                service.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    """Ends a connection as a crashed host does."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_head(connection: socket.socket) -> bytes | None:
    """The head of a request, with what was read after it, told to end the connection; None if there is none."""
    received = b""
    while END_OF_HEAD not in received:
        piece = connection.recv(PIECE_BYTES)
        if not piece:
            return None
        received += piece
    head, _, rest = received.partition(END_OF_HEAD)
    head = re.sub(rb"\r\nconnection:[^\r]*", b"", head, flags=re.IGNORECASE)
    return head + b"\r\nConnection: close" + END_OF_HEAD + rest


def read_whole(connection: socket.socket, request: bytes) -> bytes:
    """The whole of a request that has a Content-Length or no body."""
    head, _, body = request.partition(END_OF_HEAD)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, flags=re.IGNORECASE)
    missing = (int(length[1]) if length else 0) - len(body)
    while missing > 0:
        piece = connection.recv(PIECE_BYTES)
        request, missing = request + piece, missing - len(piece)
    return request


@contextmanager
def faulty_proxy(target_port: int, *faults: str | bytes) -> Iterator[FaultyProxy]:
    """A proxy on a free port to the service on another one."""
    proxy = FaultyProxy(target_port, faults)
    accepting = threading.Thread(target=proxy.accept)
    accepting.start()
    try:
        yield proxy
    finally:
        proxy.is_over.set()
        with suppress(OSError):
            proxy.listener.shutdown(socket.SHUT_RDWR)
        proxy.listener.close()
        accepting.join()
        for thread in proxy.threads:
            thread.join()
