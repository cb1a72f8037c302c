"""Batches of 1,000 users through `POST /events`, beside the same through the HTTP batch."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from benchmarks.batch import CLIENTS, SIZE, bodies, created_per_second, other_database
from benchmarks.client import Client
from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.plan import Plan
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, service

TYPE = "org.userservice.batch.create.v1"


def binary(body: bytes) -> tuple[bytes, dict[str, str]]:
    attributes = {"specversion": "1.0", "id": uuid4().hex, "source": "/benchmarks", "type": TYPE}
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    return body, {**headers, "Content-Type": "application/json"}


def structured(body: bytes) -> tuple[bytes, dict[str, str]]:
    event = {"specversion": "1.0", "id": uuid4().hex, "source": "/benchmarks", "type": TYPE, "data": json.loads(body)}
    return json.dumps(event).encode(), {"Content-Type": "application/cloudevents+json"}


def send_all(server: Server, events: Sequence[tuple[bytes, dict[str, str]]]) -> None:
    """Over `CLIENTS` connections; each must be answered by a reply in which nothing failed."""

    def send(share: Sequence[tuple[bytes, dict[str, str]]]) -> None:
        with server.client() as client:
            for event in share:
                send_one(client, *event)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(send, [events[start::CLIENTS] for start in range(CLIENTS)]))


def send_one(client: Client, body: bytes, headers: dict[str, str]) -> None:
    client.connection.request("POST", "/events", body, {**client.headers, **headers})
    response = client.connection.getresponse()
    content = response.read()
    # The summary comes first. It is not parsed, since the answers of the baseline are not.
    if response.status != 200 or f'"succeeded":{SIZE},'.encode() not in content[:100]:
        raise BenchmarkError(f"/events answered {response.status}: {content[:500].decode(errors='replace')}")


def events_per_second(
    server: Server, batches: int, mode: Callable[[bytes], tuple[bytes, dict[str, str]]]
) -> Callable[[], float]:
    def create() -> float:
        events = [mode(body) for body in bodies(batches)]
        started = time.perf_counter()
        send_all(server, events)
        return batches * SIZE / (time.perf_counter() - started)

    return create


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with other_database(bench, "events") as empty, service(empty) as server:
        http = created_per_second(server, plan.batches)
        rows = []
        for name, mode in (("binary", binary), ("structured", structured)):
            subject = events_per_second(server, plan.batches, mode)
            subject()
            compared = Comparison(*alternate(plan.batch_rounds, baseline=http, subject=subject))
            label = f"POST /events, {name} (baseline: POST /users/batch/create)"
            rows.append(Row(f"events.{name}", label, "users/s", compared))
    return rows
