"""A full synchronisation by SCIM beside as many plain `POST /users`, over the same connections of one client.

`scim.sync` is the POST of each user alone. `scim.sync.okta` is what Okta and Entra ID do: a look-up by the userName,
and the POST once its answer says that there is no such user.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.load import Target
from benchmarks.operations import post
from benchmarks.people import USERS, person
from benchmarks.plan import Plan
from benchmarks.processes import LOOPBACK, processor_seconds
from benchmarks.report import Row
from benchmarks.scim import SCIM_USERS, finds, provisioned
from benchmarks.servers import API_KEY, Bench, Server, service

CONNECTIONS: Final = 8
CHUNKS: Final = 20
# What is not found is answered with 200 and an empty list.
EXPECTED: Final = {"GET": b"HTTP/1.1 200", "POST": b"HTTP/1.1 201"}
Steps = Callable[[int], Iterable[Target]]


@dataclass(frozen=True)
class Spent:
    seconds: float
    # The server's processor time for one user, in microseconds.
    processor_us: float


class Connection:
    """A kept connection. The client shares its processors with the server, so that it does little for a request."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes, expected: bytes) -> None:
        """BenchmarkError unless the answer begins as expected."""
        self.socket.sendall(request)
        answer = self.socket.recv(65_536)
        while not is_whole(answer):
            more = self.socket.recv(65_536)
            if not more:
                break
            answer += more
        if not answer.startswith(expected):
            raise BenchmarkError(f"{request[:200]!r} was answered by {answer[:500]!r}")


def is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(separator) and len(body) >= int(length or 0)


def encode(target: Target) -> bytes:
    body = target.body.encode()
    headers = {"Host": LOOPBACK, "X-API-Key": API_KEY, "Content-Length": str(len(body)), **target.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{target.method} {target.path} HTTP/1.1\r\n{lines}\r\n".encode() + body


@contextmanager
def connected(port: int) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        connections = [Connection(port) for _ in range(CONNECTIONS)]
        for connection in connections:
            stack.enter_context(connection.socket)
        yield connections


def plain(number: int) -> Iterator[Target]:
    yield post(USERS, person(number, series="plain"))


def provision(number: int, *, series: str) -> Iterator[Target]:
    yield post(SCIM_USERS, provisioned(number, series=series))


def synchronise(number: int, *, series: str) -> Iterator[Target]:
    """As Okta pushes a user: a look-up by its name, then the user."""
    user: dict[str, Any] = provisioned(number, series=series)
    yield from finds(SCIM_USERS, [user["userName"]])
    yield post(SCIM_USERS, user)


class Side:
    """One of the two that are compared. Each chunk has users of its own."""

    def __init__(self, server: Server, connections: list[Connection], steps: Steps, numbers: Iterator[int]) -> None:
        self.server = server
        self.connections = connections
        self.steps = steps
        self.numbers = numbers

    def run(self, users: int) -> Spent:
        """Creates users, each connection one after the other. BenchmarkError on a wrong answer."""
        # Written before the clock starts.
        requests = [
            [(encode(target), EXPECTED[target.method]) for target in self.steps(number)]
            for number in islice(self.numbers, users)
        ]

        def work(place: int) -> None:
            for steps in requests[place::CONNECTIONS]:
                for request, expected in steps:
                    self.connections[place].ask(request, expected)

        before, started = processor_seconds(self.server.pid), time.perf_counter()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(work, range(CONNECTIONS)))
        seconds = time.perf_counter() - started
        return Spent(seconds, (processor_seconds(self.server.pid) - before) / users * 1e6)


def make_rows(key: str, label: str, theirs: list[Spent], ours: list[Spent]) -> list[Row]:
    """The times of the chunks, which are judged, with the time of all of them, and the processor time behind it."""
    chunks = Comparison([spent.seconds for spent in theirs], [spent.seconds for spent in ours])
    spent = Comparison([spent.processor_us for spent in theirs], [spent.processor_us for spent in ours])
    whole = {"baseline_seconds": sum(chunks.baseline), "subject_seconds": sum(chunks.subject)}
    return [
        Row(key, label, "s", chunks, details=whole),
        Row(f"{key}.processor", "    processor time of one user", "us", spent),
    ]


def measure(bench: Bench, plan: Plan) -> list[Row]:
    size = plan.synced_users // CHUNKS
    rows: list[Row] = []
    with service(bench, scim=True) as server, connected(server.port) as connections:
        others = Side(server, connections, plain, iter(range(10_000_000)))
        for key, label, steps in (
            ("scim.sync", "POST /scim/v2/Users", partial(provision, series="pushed")),
            ("scim.sync.okta", "a look-up, then POST /scim/v2/Users", partial(synchronise, series="synced")),
        ):
            side = Side(server, connections, steps, iter(range(10_000_000)))
            for each in (others, side):
                each.run(size)
            theirs, ours = alternate(CHUNKS, baseline=partial(others.run, size), subject=partial(side.run, size))
            title = f"{label}: {plan.synced_users:,} users, in chunks (baseline: POST /users)"
            rows += make_rows(key, title, theirs, ours)
    return rows
