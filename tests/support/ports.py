"""Ports for programs that must be told one."""

import itertools
import os
import random
import socket
from collections.abc import Iterator
from typing import Final

# Below those that systems give to outgoing connections: a port found free there could be one a moment later.
FIRST: Final = 20_000
PER_WORKER: Final = 500
WORKERS: Final = 24


def ports_of_this_worker() -> Iterator[int]:
    """Round and round through ports that no other process of the same test run is given."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    first = FIRST + worker * PER_WORKER
    ports = list(range(first, first + PER_WORKER))
    begin = random.randrange(PER_WORKER)
    return itertools.cycle(ports[begin:] + ports[:begin])


PORTS: Final = ports_of_this_worker()


def free_port() -> int:
    """A port of the loopback address on which nothing listens."""
    return next(port for port in PORTS if is_free(port))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
