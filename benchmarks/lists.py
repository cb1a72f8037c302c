"""A page far into the list beside the first page."""

import time
from collections.abc import Callable
from urllib.parse import quote

from benchmarks.client import Client
from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.people import USERS
from benchmarks.plan import Plan
from benchmarks.preload import preload
from benchmarks.report import Row
from benchmarks.servers import Bench, service

WALK_LIMIT = 200
PAGE_LIMIT = 50


def page_path(cursor: str | None, *, limit: int) -> str:
    return f"{USERS}?limit={limit}" + ("" if cursor is None else f"&cursor={quote(cursor)}")


def cursor_at(client: Client, depth: int) -> str:
    """The service's own cursor behind `depth` users, by walking there."""
    cursor: str | None = None
    for walked in range(0, depth, WALK_LIMIT):
        cursor = client.get(page_path(cursor, limit=WALK_LIMIT)).json()["next_cursor"]
        if cursor is None:
            raise BenchmarkError(f"the list ended before user {walked + WALK_LIMIT} of {depth}")
    assert cursor is not None
    return cursor


def page_ms(client: Client, cursor: str | None) -> Callable[[], float]:
    path = page_path(cursor, limit=PAGE_LIMIT)

    def ask() -> float:
        started = time.perf_counter()
        response = client.get(path)
        elapsed = time.perf_counter() - started
        if len(response.json()["items"]) != PAGE_LIMIT:
            raise BenchmarkError(f"{path} is not a full page")
        return elapsed * 1_000

    return ask


def measure(bench: Bench, plan: Plan) -> list[Row]:
    preload(bench, plan.listed_users + PAGE_LIMIT)
    with service(bench) as server, server.client() as client:
        first, deep = page_ms(client, None), page_ms(client, cursor_at(client, plan.listed_users))
        for warm in (first, deep) * 5:
            warm()
        comparison = Comparison(*alternate(plan.page_rounds, baseline=first, subject=deep))
    label = f"GET /users?limit={PAGE_LIMIT} behind {plan.listed_users:,} users (baseline: first page)"
    return [Row("list.depth", label, "ms", comparison)]
