"""From exec to the first good answer, on a running, migrated database that holds the user asked for."""

import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.people import USERS, create_users, person
from benchmarks.plan import Plan
from benchmarks.processes import LOOPBACK, free_port, processor_seconds, running
from benchmarks.report import Row
from benchmarks.servers import (
    API_KEY,
    Bench,
    baseline_command,
    python_env,
    serve_command,
    service,
    service_env,
    users_file,
)

POLL_SECONDS = 0.0005
GIVE_UP_SECONDS = 30.0


@dataclass(frozen=True)
class FirstRequest:
    """The bytes to send, the status to wait for, and what the body must contain."""

    content: bytes
    status: int
    body_holds: str


@dataclass(frozen=True)
class Start:
    """From exec to the first good answer: time on the clock, and processor time of the process."""

    ms: float
    processor_ms: float


def get(user_id: str) -> FirstRequest:
    head = f"GET {USERS}/{user_id} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n"
    return FirstRequest(head.encode(), 200, user_id)


def post(number: int) -> FirstRequest:
    data = person(number, series="cold")
    body = json.dumps(data).encode()
    head = (
        f"POST {USERS} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return FirstRequest(head.encode() + body, 201, data["email"])


def ask(port: int, request: FirstRequest) -> tuple[float, bytes]:
    """Time of the response's first bytes, and the whole response; OSError while no process listens."""
    with socket.create_connection((LOOPBACK, port), timeout=GIVE_UP_SECONDS) as connection:
        connection.sendall(request.content)
        response = connection.recv(65_536)
        arrived = time.perf_counter()
        while more := connection.recv(65_536):
            response += more
    return arrived, response


def start(command: Sequence[str], *, env: Mapping[str, str], log: Path, port: int, request: FirstRequest) -> Start:
    """Starts `command`, asks until the answer is right, stops it; BenchmarkError when that takes too long."""
    began = time.perf_counter()
    with running(command, env=env, log=log) as process:
        while time.perf_counter() - began < GIVE_UP_SECONDS and process.poll() is None:
            try:
                arrived, response = ask(port, request)
            except OSError:
                time.sleep(POLL_SECONDS)
                continue
            if response.startswith(b"HTTP/1.1 %d " % request.status) and request.body_holds.encode() in response:
                return Start((arrived - began) * 1_000, processor_seconds(process.pid) * 1_000)
            time.sleep(POLL_SECONDS)
        raise BenchmarkError(f"no {request.status} within {GIVE_UP_SECONDS:.0f} s")


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with service(bench) as server:
        users = create_users(server, 1, series="first")
    user_id, file = next(iter(users)), users_file(bench, users)
    numbers = count()

    def baseline() -> Start:
        port = free_port()
        command = baseline_command(port, file)
        return start(command, env=python_env(), log=bench.log("cold"), port=port, request=get(user_id))

    def start_service(request: FirstRequest) -> Start:
        port = free_port()
        env = service_env(bench, port)
        return start(serve_command(bench), env=env, log=bench.log("cold"), port=port, request=request)

    def first_read() -> Start:
        return start_service(get(user_id))

    def first_create() -> Start:
        return start_service(post(next(numbers)))

    baseline(), first_read()  # bytecode and the disk's cache
    reads = alternate(plan.cold_rounds, baseline=baseline, subject=first_read)
    creates = alternate(plan.cold_rounds, baseline=baseline, subject=first_create)
    return [
        *make_rows("cold.read", "exec to first GET /users/{id}", *reads),
        *make_rows("cold.create", "exec to first POST /users (baseline: its GET)", *creates),
    ]


def make_rows(key: str, label: str, theirs: Sequence[Start], ours: Sequence[Start]) -> list[Row]:
    """The time on the clock, which is judged, and the processor time in it."""
    clock = Comparison([seen.ms for seen in theirs], [seen.ms for seen in ours])
    spent = Comparison([seen.processor_ms for seen in theirs], [seen.processor_ms for seen in ours])
    return [
        Row(key, label, "ms", clock),
        Row(f"{key}.processor", "    processor time of it", "ms", spent),
    ]
