"""The feed: how fast a reader follows what is there, and how late it is while users change."""

import time
from statistics import median, quantiles
from threading import Thread
from uuid import uuid4

from benchmarks.batch import SIZE, bodies, other_database, send_all
from benchmarks.client import Client
from benchmarks.compare import Comparison
from benchmarks.errors import BenchmarkError
from benchmarks.plan import Plan
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, service

FEED = "/api/v1/users/changes"
CHANGES_A_SECOND = 500
WRITERS = 8
# An item of a batch is a change, so that one machine makes 500 a second beside the reader and the service.
ITEMS = 5


def follow(client: Client, cursor: str | None) -> tuple[int, str]:
    """Reads to the end; returns the number of changes and the cursor."""
    total = 0
    while True:
        after = f"&after={cursor}" if cursor else ""
        page = client.get(f"{FEED}?limit=1000{after}").json()
        cursor = page["next_cursor"]
        total += len(page["items"])
        if not page["items"]:
            return total, cursor


def followed_per_second(server: Server, changes: int) -> float:
    with server.client() as client:
        started = time.perf_counter()
        total, _ = follow(client, None)
        seconds = time.perf_counter() - started
    if total != changes:
        raise BenchmarkError(f"the feed has {total} changes instead of {changes}")
    return total / seconds


class Writer(Thread):
    """Makes its share of the changes at its pace, and notes when each was answered, by user and version."""

    def __init__(self, server: Server, user_ids: list[str], *, until: float) -> None:
        super().__init__()
        self.server, self.user_ids, self.until = server, user_ids, until
        self.answered: dict[tuple[str, int], float] = {}

    def run(self) -> None:
        pause, number = ITEMS * WRITERS / CHANGES_A_SECOND, 0
        begin = time.perf_counter()
        with self.server.client() as client:
            while time.perf_counter() < self.until:
                value = {"locale": ("de", "fr")[number % 2], "metadata": {"n": number}}
                places = [(number * ITEMS + place) % len(self.user_ids) for place in range(ITEMS)]
                items = [{"id": self.user_ids[place], "data": value} for place in places]
                response = client.request("POST", "/api/v1/users/batch/update", expect=200, data={"items": items})
                now = time.perf_counter()
                self.answered |= {(item["id"], item["version"]): now for item in response.json()["items"]}
                number += 1
                time.sleep(max(0.0, begin + number * pause - time.perf_counter()))


class Reader(Thread):
    """Follows by a long poll, and notes when each change arrived."""

    def __init__(self, server: Server, cursor: str) -> None:
        super().__init__()
        self.server, self.cursor, self.stopping = server, cursor, False
        self.arrived: dict[tuple[str, int], float] = {}

    def run(self) -> None:
        with self.server.client() as client:
            while not self.stopping:
                page = client.get(f"{FEED}?limit=1000&wait=1&after={self.cursor}").json()
                now = time.perf_counter()
                self.arrived |= {(item["user_id"], item["version"]): now for item in page["items"]}
                self.cursor = page["next_cursor"]


def lags(server: Server, seconds: float) -> tuple[list[float], float]:
    """The milliseconds from the answer of each change to its arrival at a reader, and the changes a second."""
    items = [{"data": {"email": f"{uuid4().hex}@example.org"}} for _ in range(1000)]
    with server.client() as client:
        made = client.request("POST", "/api/v1/users/batch/create", expect=200, data={"items": items}).json()
        ids = [item["id"] for item in made["items"]]
        _, cursor = follow(client, None)
    until = time.perf_counter() + seconds
    writers = [Writer(server, ids[place::WRITERS], until=until) for place in range(WRITERS)]
    reader = Reader(server, cursor)
    for thread in (reader, *writers):
        thread.start()
    for writer in writers:
        writer.join()
    answered = {key: at for writer in writers for key, at in writer.answered.items()}
    deadline = time.perf_counter() + 30
    while not answered.keys() <= reader.arrived.keys():
        if time.perf_counter() > deadline:
            raise BenchmarkError("the feed lacks changes 30 s after the last one")
        time.sleep(0.1)
    reader.stopping = True
    reader.join()
    return [1000 * max(0.0, reader.arrived[key] - at) for key, at in answered.items()], len(answered) / seconds


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with other_database(bench, "feed") as empty, service(empty) as server:
        send_all(server, "create", bodies(plan.feed_changes // SIZE))
        rates = [followed_per_second(server, plan.feed_changes) for _ in range(plan.batch_rounds)]
        waits, changes = lags(server, plan.feed_seconds)
    p50, p99 = median(waits), quantiles(waits, n=100)[98]
    label = f"GET /users/changes of {plan.feed_changes:,} changes, in pages of 1,000"
    late = f"lag of a waiting reader at {changes:.0f} changes/s, p99"
    details = {"p50": p50, "p99": p99, "max": max(waits), "changes_per_second": changes}
    return [
        Row("feed.rate", label, "changes/s", Comparison(rates, rates), absolute=median(rates)),
        Row("feed.lag", late, "ms", Comparison([p50], [p99]), absolute=p99, details=details),
    ]
