"""Finds, lists and changes of single users, each beside the bare route of its method, one worker, kept connections.

To delete, restore, suspend and activate are changes by the same code as a login: they are not measured apart, because a
user can't be suspended twice.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.compare import Comparison, alternate
from benchmarks.load import LAPS, Load, Target, change, load, pause_at_half_load, write_targets
from benchmarks.people import USERS, create_users, person
from benchmarks.plan import Plan
from benchmarks.reads import make_rows
from benchmarks.report import Row
from benchmarks.servers import Bench, baseline, service

JSON_BODY = {"Content-Type": "application/json"}
# More than a second's worth on any machine: a body that comes again would be refused.
CREATED_PER_SECOND = 12_000
FOUND_AT_ONCE = 10
People = Mapping[str, Mapping[str, Any]]


def post(path: str, data: object = None, **headers: str) -> Target:
    body = "" if data is None else json.dumps(data, separators=(",", ":"))
    return Target(path, method="POST", headers=(JSON_BODY if body else {}) | headers, body=body)


def finds(users: People, field: str) -> Iterator[Target]:
    return (Target(f"{USERS}?{field}={quote(user[field], safe='')}") for user in users.values())


def pages(users: People) -> Iterator[Target]:
    return (Target(f"{USERS}?limit=50") for _ in users)


def changes(users: People) -> Iterator[Target]:
    return (change(f"{USERS}/{user_id}", lap) for lap in LAPS for user_id in users)


def logins(users: People) -> Iterator[Target]:
    return (post(f"{USERS}/{user_id}/login") for user_id in users)


def batch_finds(users: People) -> Iterator[Target]:
    emails = [user["email"] for user in users.values()]
    for start in range(0, len(emails), FOUND_AT_ONCE):
        yield post(f"{USERS}/batch/find", {"emails": emails[start : start + FOUND_AT_ONCE]})


# The key of the row, its label, the method of the bare route beside it, and the requests.
OPERATIONS: tuple[tuple[str, str, str, Callable[[People], Iterator[Target]]], ...] = (
    ("find.email", "GET /users?email=", "GET", partial(finds, field="email")),
    ("find.external_id", "GET /users?external_id=", "GET", partial(finds, field="external_id")),
    ("list.page", "GET /users?limit=50", "GET", pages),
    ("change.one", "PATCH /users/{id}", "PATCH", changes),
    ("login.one", "POST /users/{id}/login", "POST", logins),
    ("find.batch", f"POST /users/batch/find of {FOUND_AT_ONCE}", "POST", batch_finds),
)


class NewUsers:
    """Requests that create users, never one twice; with `keyed`, each has an Idempotency-Key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = count()

    def write(self, number: int, *, keyed: bool = False) -> Path:
        targets = (self.target(next(self.numbers), keyed) for _ in range(number))
        return write_targets(self.folder / "targets-create.tsv", targets)

    def target(self, number: int, keyed: bool) -> Target:
        headers = {"Idempotency-Key": f"create-{number}"} if keyed else {}
        return post(USERS, person(number, series="new"), **headers)


def make_tail(key: str, full: Sequence[Load], ask: Callable[..., Load]) -> Row:
    """The 99th percentile of the time of a response beside the median, at half of the highest load."""
    pause = pause_at_half_load(max(full, key=lambda seen: seen.per_second))
    seen = [ask(pause_ms=pause) for _ in full]
    tail = Comparison([one.p50_ms for one in seen], [one.p99_ms for one in seen])
    return Row(f"{key}.tail", "    p99 at half load (baseline: median)", "ms", tail)


def measure(bench: Bench, plan: Plan) -> list[Row]:
    with service(bench) as server:
        users = create_users(server, plan.hot_users, series="operations")
        with baseline(bench, users) as bare:
            folder, rows, bodies = bench.folder, [], NewUsers(bench.folder)
            bare_targets = {
                "GET": write_targets(folder / "bare-get.tsv", (Target(f"{USERS}/{user_id}") for user_id in users)),
                "PATCH": write_targets(folder / "bare-patch.tsv", changes(users)),
                "POST": write_targets(folder / "bare-post.tsv", (post(USERS, person(1, series="bare")) for _ in users)),
            }
            ask_bare = {
                method: partial(load, bare, targets, seconds=plan.load_seconds)
                for method, targets in bare_targets.items()
            }
            for key, label, method, make_targets in OPERATIONS:
                targets = write_targets(folder / f"targets-{key}.tsv", make_targets(users))
                ask = partial(load, server, targets, seconds=plan.load_seconds)
                theirs, ours = alternate(plan.load_rounds, baseline=ask_bare[method], subject=ask)
                rows += [*make_rows(key, label, theirs, ours), make_tail(key, ours, ask)]

            def create(*, keyed: bool = False, pause_ms: int = 0) -> Load:
                new = bodies.write(CREATED_PER_SECOND * plan.load_seconds, keyed=keyed)
                return load(server, new, seconds=plan.load_seconds, pause_ms=pause_ms)

            with_key = partial(create, keyed=True)
            theirs, ours = alternate(plan.load_rounds, baseline=ask_bare["POST"], subject=create)
            rows += [*make_rows("create.one", "POST /users", theirs, ours), make_tail("create.one", ours, create)]
            theirs, ours = alternate(plan.load_rounds, baseline=create, subject=with_key)
            return rows + make_rows("create.keyed", "  with Idempotency-Key (baseline: without)", theirs, ours)
