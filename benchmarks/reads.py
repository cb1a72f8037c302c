"""Reads of one user in turn over many, one worker, kept connections: from each place that can answer."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compare import Comparison, alternate
from benchmarks.errors import BenchmarkError
from benchmarks.load import Load, Target, load, write_targets
from benchmarks.people import USERS, create_users
from benchmarks.plan import Plan
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, baseline, service

NO_CACHE = {"Cache-Control": "no-cache"}
NO_ROOM = 0


@dataclass(frozen=True)
class Variant:
    """One way to be asked; `redis`, `local`, `access_log` and `limited` are how the service was started.

    Without `local`, the cache in the process has no room, so that every read asks Redis.
    """

    key: str
    label: str
    redis: bool = False
    local: bool = True
    access_log: bool = False
    limited: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> tuple[bool, bool, bool, bool]:
        return self.redis, self.local, self.access_log, self.limited


VARIANTS = (
    Variant("hot.memory", "GET /users/{id}, in-process cache"),
    Variant("hot.memory.logged", "  with the access log on", access_log=True),
    Variant("hot.memory.unlimited", "  without a rate limit", limited=False),
    Variant("hot.tiers", "GET /users/{id}, cache in front of Redis", redis=True),
    Variant("hot.tiers.logged", "  with the access log on", redis=True, access_log=True),
    Variant("hot.tiers.unlimited", "  without a rate limit", redis=True, limited=False),
    Variant("hot.redis", "GET /users/{id}, missed there, Redis", redis=True, local=False),
    Variant("hot.postgres", "GET /users/{id}, no-cache: PostgreSQL", headers=NO_CACHE),
    Variant("hot.postgres.logged", "  with the access log on", headers=NO_CACHE, access_log=True),
)


def check(server: Server, variant: Variant | None, users: Mapping[str, Any]) -> None:
    """Every user once: a rate of wrong answers means nothing. Fills the caches as well."""
    headers = {} if variant is None else {name.replace("-", "_"): value for name, value in variant.headers.items()}
    with server.client() as client:
        for user_id, user in users.items():
            seen = client.get(f"{USERS}/{user_id}", **headers).json()
            if seen != user:
                raise BenchmarkError(f"port {server.port}, {variant}: {seen} instead of {user}")


def targets(bench: Bench, users: Mapping[str, Any], variant: Variant | None) -> Path:
    name, headers = ("baseline", {}) if variant is None else (variant.key, variant.headers)
    lines = (Target(f"{USERS}/{user_id}", headers=headers) for user_id in users)
    return write_targets(bench.folder / f"targets-{name}.tsv", lines)


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with ExitStack() as stack:
        started: dict[tuple[bool, bool, bool, bool], Server] = {}
        for variant in VARIANTS:
            if variant.mode not in started:
                started[variant.mode] = stack.enter_context(
                    service(
                        bench,
                        redis_url=bench.redis_url if variant.redis else None,
                        access_log=variant.access_log,
                        cache_max_bytes=None if variant.local else NO_ROOM,
                        limited=variant.limited,
                    )
                )
        users = create_users(started[VARIANTS[0].mode], plan.hot_users, series="hot")
        bare = stack.enter_context(baseline(bench, users))
        check(bare, None, users)
        ask_bare = partial(load, bare, targets(bench, users, None), seconds=plan.load_seconds)
        noise = alternate(plan.load_rounds, baseline=ask_bare, subject=ask_bare)
        rows = make_rows("hot.noise", "the baseline beside itself", *noise)
        for variant in VARIANTS:
            server = started[variant.mode]
            check(server, variant, users)
            ask = partial(load, server, targets(bench, users, variant), seconds=plan.load_seconds)
            rows += make_rows(variant.key, variant.label, *alternate(plan.load_rounds, baseline=ask_bare, subject=ask))
        return rows


def make_rows(key: str, label: str, theirs: Sequence[Load], ours: Sequence[Load]) -> list[Row]:
    """The rate, which is judged, and the processor time behind it."""
    rate = Comparison([seen.per_second for seen in theirs], [seen.per_second for seen in ours])
    spent = Comparison([seen.processor_us for seen in theirs], [seen.processor_us for seen in ours])
    details = {"p50_ms": [seen.p50_ms for seen in ours], "p99_ms": [seen.p99_ms for seen in ours]}
    return [
        Row(key, label, "req/s", rate, details=details),
        Row(f"{key}.processor", "    processor time of one", "us", spent),
    ]
