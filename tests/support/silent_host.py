"""Servers that are reached and do not answer."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_host() -> Iterator[str]:
    """`host:port` of a listener that never says a word to those who connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def full_host() -> Iterator[str]:
    """`host:port` of a listener whose queue is full, so that the kernel drops further attempts to connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(address)
        yield f"127.0.0.1:{address[1]}"
        for connection in waiting:
            connection.close()
