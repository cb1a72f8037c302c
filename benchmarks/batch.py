"""Batches of 1,000 through HTTP: users created beside `COPY` of their rows, users found, the cost of a full table."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count
from statistics import median
from typing import NamedTuple

import asyncpg

from benchmarks.client import Client
from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.load import Target, load, write_targets
from benchmarks.people import USERS, create_users, person
from benchmarks.plan import Plan
from benchmarks.preload import preload
from benchmarks.processes import processor_seconds
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, baseline, migrate, service

BATCH = f"{USERS}/batch/"
SIZE = 1_000
BARE_USERS = 200
CLIENTS = 6  # while some batches wait for PostgreSQL, the worker prepares the next
numbers = count()


def bodies(batches: int) -> list[bytes]:
    """Requests that create new users; made before the clock starts."""
    made = []
    for batch in range(batches):
        series = f"batch{next(numbers)}-{batch}"
        items = [{"ref": str(number), "data": person(number, series=series)} for number in range(SIZE)]
        made.append(json.dumps({"items": items}).encode())
    return made


def send_all(server: Server, verb: str, requests: Sequence[bytes]) -> list[bytes]:
    """The answers, in order, of requests sent over `CLIENTS` connections; each must be a plain 200."""

    def send(share: Sequence[bytes]) -> list[bytes]:
        with server.client() as client:
            return [send_one(client, verb, body) for body in share]

    shares = [requests[start::CLIENTS] for start in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        responses: list[Iterator[bytes]] = [iter(share) for share in pool.map(send, shares)]
    return [next(responses[place % CLIENTS]) for place in range(len(requests))]


def send_one(client: Client, verb: str, body: bytes) -> bytes:
    client.connection.request("POST", BATCH + verb, body, {**client.headers, "Content-Type": "application/json"})
    response = client.connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise BenchmarkError(f"{BATCH}{verb} answered {response.status}: {content[:500].decode(errors='replace')}")
    return content


class Cost(NamedTuple):
    """Users a second, and the processor time of one user in microseconds."""

    per_second: float
    worker_us: float
    postgres_us: float


def send_measured(bench: Bench, server: Server, verb: str, requests: Sequence[bytes]) -> Cost:
    """Sends requests of `SIZE` users each."""
    worker, database = processor_seconds(server.pid), bench.postgres_seconds()
    started = time.perf_counter()
    send_all(server, verb, requests)
    seconds = time.perf_counter() - started
    users = len(requests) * SIZE
    spent = sum(total - database.get(pid, 0.0) for pid, total in bench.postgres_seconds().items())
    return Cost(users / seconds, (processor_seconds(server.pid) - worker) / users * 1e6, spent / users * 1e6)


def created_per_second(server: Server, batches: int) -> Callable[[], float]:
    def create() -> float:
        requests = bodies(batches)
        started = time.perf_counter()
        send_all(server, "create", requests)
        return batches * SIZE / (time.perf_counter() - started)

    return create


async def copy_rows(url: str, batches: int) -> float:
    """Rows a second of `COPY`, in transactions of 1,000, of stored users into an empty table with the same indexes."""
    connection = await asyncpg.connect(url)
    try:
        chunks = []
        for batch in range(batches):
            chunk = bytearray()

            async def collect(data: bytes, chunk: bytearray = chunk) -> None:
                chunk.extend(data)

            query = f"SELECT * FROM users ORDER BY id OFFSET {batch * SIZE} LIMIT {SIZE}"
            await connection.copy_from_query(query, output=collect, format="binary")
            chunks.append(bytes(chunk))
        await connection.execute("DROP TABLE IF EXISTS copied; CREATE TABLE copied (LIKE users INCLUDING ALL)")
        started = time.perf_counter()
        for stored in chunks:
            await connection.copy_to_table("copied", source=pieces(stored), format="binary")
        return batches * SIZE / (time.perf_counter() - started)
    finally:
        await connection.execute("DROP TABLE IF EXISTS copied")
        await connection.close()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def found_per_second(server: Server, batches: int) -> Callable[[], float]:
    """Users a second of finds of the same 1,000 ids, which the first find has brought into the cache."""
    response = json.loads(send_all(server, "create", bodies(1))[0])
    ids = [item["id"] for item in response["items"]]
    request = json.dumps({"ids": ids}).encode()
    found = json.loads(send_all(server, "find", [request])[0])["found"]
    if [user["id"] for user in found] != ids:
        raise BenchmarkError("find did not find the users that were created")

    def find() -> float:
        started = time.perf_counter()
        send_all(server, "find", [request] * batches)
        return batches * SIZE / (time.perf_counter() - started)

    return find


@contextmanager
def other_database(bench: Bench, name: str) -> Iterator[Bench]:
    """The same run over an empty database of its own."""
    asyncio.run(execute(bench.database_url, f"CREATE DATABASE {name}"))
    other = replace(bench, database_url=bench.database_url.rpartition("/")[0] + f"/{name}")
    migrate(other)
    yield other
    asyncio.run(execute(bench.database_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with ExitStack() as stack:
        empty = stack.enter_context(other_database(bench, "batches"))
        server = stack.enter_context(service(empty))
        created_per_second(server, plan.batches)()
        rows = [*beside_route(empty, server, plan, stack), *rates(empty, server, plan)]
        return [*rows, growth(bench, plan, stack)]


def beside_route(bench: Bench, server: Server, plan: Plan, stack: ExitStack) -> list[Row]:
    """Users created beside requests that the bare route answers: a slow phase of the host slows both."""
    users = create_users(server, BARE_USERS, series="bare")
    bare = stack.enter_context(baseline(bench, users))
    lines = (Target(f"{USERS}/{user_id}") for user_id in users)
    targets = write_targets(bench.folder / "targets-bare.tsv", lines)
    asked, created = alternate(
        plan.batch_rounds,
        baseline=lambda: load(bare, targets, seconds=plan.load_seconds),
        subject=lambda: send_measured(bench, server, "create", bodies(plan.batches)),
    )
    rates = Comparison([one.per_second for one in asked], [one.per_second for one in created])
    request_us = [one.processor_us for one in asked]
    worker = Comparison(request_us, [one.worker_us for one in created])
    postgres = Comparison(request_us, [one.postgres_us for one in created])
    return [
        Row("batch.create.route", "users created beside requests of the bare route", "1/s", rates),
        Row("batch.create.worker", "    processor time of one user beside that of one request", "us", worker),
        Row("batch.create.postgres", "    the same of PostgreSQL", "us", postgres),
    ]


def rates(bench: Bench, server: Server, plan: Plan) -> list[Row]:
    create, find = created_per_second(server, plan.batches), found_per_second(server, plan.batches)
    copy = lambda: asyncio.run(copy_rows(bench.database_url, plan.batches))  # noqa: E731
    created = Comparison(*alternate(plan.batch_rounds, baseline=copy, subject=create))
    found = Comparison(*alternate(plan.batch_rounds, baseline=create, subject=find))
    return [
        Row("batch.create", "POST /users/batch/create (baseline: COPY)", "users/s", created, median(created.subject)),
        Row("batch.find", "POST /users/batch/find, cached (baseline: create)", "users/s", found, median(found.subject)),
    ]


def growth(bench: Bench, plan: Plan, stack: ExitStack) -> Row:
    """The time of one user in a table of `listed_users`, beside one that was empty."""
    small = stack.enter_context(service(stack.enter_context(other_database(bench, "small"))))
    filled = stack.enter_context(other_database(bench, "filled"))
    preload(filled, plan.listed_users)
    large = stack.enter_context(service(filled))
    for server in (small, large):
        created_per_second(server, plan.batches)()
    rounds = alternate(
        plan.batch_rounds,
        baseline=microseconds(created_per_second(small, plan.batches)),
        subject=microseconds(created_per_second(large, plan.batches)),
    )
    return Row("batch.growth", f"one user created among {plan.listed_users:,}", "us", Comparison(*rounds))


def microseconds(rate: Callable[[], float]) -> Callable[[], float]:
    return lambda: 1e6 / rate()
