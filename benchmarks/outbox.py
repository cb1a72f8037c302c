"""Pending events posted to a sink on the same machine by a relay that starts from zero."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.batch import SIZE, bodies, other_database, send_all
from benchmarks.client import Client
from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.load import Load, Target, load, write_targets
from benchmarks.plan import Plan
from benchmarks.processes import LOOPBACK, free_port, running, wait_until_listening
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, python_env, service, service_env

# As long as the events of new users.
EVENT = Target(
    "/",
    method="POST",
    headers={
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-type": "org.userservice.user.created.v1",
        "ce-source": "/benchmarks",
        "ce-id": "0193f1d2-0000-7000-8000-000000000000",
    },
    body="x" * 300,
)


class Drained(NamedTuple):
    """Events a second between the first and the last, and the seconds from the start of the process to the first."""

    per_second: float
    first_seconds: float


@contextmanager
def sink(bench: Bench) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.sink", str(port)]
    with running(command, env=python_env(), log=bench.log("sink")) as process:
        wait_until_listening(process, port)
        yield Server(port, process.pid)


def count_arrived(server: Server) -> dict[str, float]:
    with Client(server.port, {}) as client:
        arrived: dict[str, float] = client.get("/").json()
        return arrived


def drain(bench: Bench, to: Server, events: int) -> Drained:
    """Runs `user-service relay` until the outbox is empty. Raises BenchmarkError where other than `events` arrive."""
    count_arrived(to)
    env = service_env(bench, free_port()) | {"K_SINK": f"http://{LOOPBACK}:{to.port}/"}
    started = time.monotonic()
    ran = subprocess.run(
        [*bench.service_command, "relay"], env=env, capture_output=True, check=False, text=True, timeout=300
    )
    arrived = count_arrived(to)
    if ran.returncode or arrived["events"] != events:
        raise BenchmarkError(f"{arrived['events']} of {events} events arrived: {ran.stdout}{ran.stderr[-2_000:]}")
    return Drained(events / (arrived["last"] - arrived["first"]), arrived["first"] - started)


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with other_database(bench, "outbox") as database, sink(bench) as to:
        targets = write_targets(Path(bench.folder) / "targets-sink.tsv", [EVENT])

        def post() -> Load:
            return load(to, targets, seconds=plan.load_seconds)

        def relay() -> Drained:
            with service(database) as server:
                send_all(server, "create", bodies(plan.batches))
            return drain(database, to, plan.batches * SIZE)

        posted, drained = alternate(plan.batch_rounds, baseline=post, subject=relay)
    rates = Comparison([one.per_second for one in posted], [one.per_second for one in drained])
    waits = Comparison([one.p50_ms for one in posted], [1000 * one.first_seconds for one in drained])
    label = "events posted by a relay (baseline: wrk, the same sink)"
    wake = "    from the relay's start to the first event (baseline: a post)"
    return [
        Row("outbox.rate", label, "events/s", rates, absolute=median(rates.subject)),
        Row("outbox.wake", wake, "ms", waits, absolute=median(waits.subject)),
    ]
