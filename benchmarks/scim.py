"""SCIM: the search of a name beside the bare route, creates beside the plain POST, and the library's own provider.

The provider keeps its users in memory, without authentication, so that it shows what the library costs by itself.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.compare import alternate
from benchmarks.load import Load, Target, load, write_targets
from benchmarks.operations import CREATED_PER_SECOND, NewUsers, post
from benchmarks.people import USERS, create_users, person
from benchmarks.plan import Plan
from benchmarks.processes import free_port, running, wait_until_listening
from benchmarks.reads import make_rows
from benchmarks.report import Row
from benchmarks.servers import Bench, Server, baseline, python_env, service

SCIM_USERS = "/scim/v2/Users"
PROVIDER_USERS = "/v2/Users"
PROVIDER = Path(__file__).with_name("peers") / "scim_memory_app.py"
CORE = "urn:ietf:params:scim:schemas:core:2.0:User"


def provisioned(number: int, *, series: str) -> dict[str, Any]:
    """The user of `person` as Okta pushes it."""
    user = person(number, series=series)
    return {
        "schemas": [CORE],
        "userName": user["email"],
        "externalId": user["external_id"],
        "name": {"givenName": user["given_name"], "familyName": user["family_name"]},
        "displayName": user["display_name"],
        "emails": [{"primary": True, "value": user["email"], "type": "work"}],
        "phoneNumbers": [{"value": user["phone"], "type": "work"}],
        "locale": user["locale"],
        "timezone": user["timezone"],
        "active": True,
    }


def finds(base: str, names: Iterable[str]) -> Iterator[Target]:
    for name in names:
        text = quote(f'userName eq "{name}"', safe="")
        yield Target(f"{base}?filter={text}&startIndex=1&count=100")


class NewResources:
    """Requests that create users by SCIM, never one twice."""

    def __init__(self, file: Path, base: str) -> None:
        self.file = file
        self.base = base
        self.numbers = count()

    def write(self, number: int) -> Path:
        bodies = (provisioned(next(self.numbers), series="scim") for _ in range(number))
        return write_targets(self.file, (post(self.base, body) for body in bodies))


@contextmanager
def provider(bench: Bench, names: Iterable[str]) -> Iterator[Server]:
    """The library's provider, with users of these names in memory."""
    port, log, file = free_port(), bench.log("provider"), bench.folder / "provider.json"
    resources = [{**provisioned(number, series="known"), "userName": name} for number, name in enumerate(names)]
    file.write_text(json.dumps(resources))
    with running([sys.executable, str(PROVIDER), str(port), str(file)], env=python_env(), log=log) as process:
        wait_until_listening(process, port)
        yield Server(port, process.pid)


def measure(bench: Bench, plan: Plan) -> list[Row]:
    folder, seconds, rounds = bench.folder, plan.load_seconds, plan.load_rounds
    with service(bench, scim=True) as server:
        users = create_users(server, plan.hot_users, series="scim-found")
        names = [user["email"] for user in users.values()]
        with server.client() as client:
            client.get(f"{SCIM_USERS}?count=1")
        ask = partial(load, server, write_targets(folder / "scim-find.tsv", finds(SCIM_USERS, names)), seconds=seconds)
        with baseline(bench, users) as bare, provider(bench, names) as memory:
            reads = write_targets(folder / "scim-bare.tsv", (Target(f"{USERS}/{user_id}") for user_id in users))
            theirs, ours = alternate(rounds, baseline=partial(load, bare, reads, seconds=seconds), subject=ask)
            rows = make_rows("scim.find", 'GET /scim/v2/Users?filter=userName eq "..."', theirs, ours)
            known = write_targets(folder / "provider-find.tsv", finds(PROVIDER_USERS, names))
            theirs, ours = alternate(rounds, baseline=partial(load, memory, known, seconds=seconds), subject=ask)
            rows += make_rows("scim.find.provider", "  (baseline: the library's provider in memory)", theirs, ours)

            plain = NewUsers(folder)
            resources = NewResources(folder / "scim-create.tsv", SCIM_USERS)
            others = NewResources(folder / "provider-create.tsv", PROVIDER_USERS)

            def create(server: Server, new: NewUsers | NewResources) -> Load:
                return load(server, new.write(CREATED_PER_SECOND * seconds), seconds=seconds)

            provision = partial(create, server, resources)
            theirs, ours = alternate(rounds, baseline=partial(create, server, plain), subject=provision)
            rows += make_rows("scim.create", "POST /scim/v2/Users (baseline: POST /users)", theirs, ours)
            theirs, ours = alternate(rounds, baseline=partial(create, memory, others), subject=provision)
            return rows + make_rows("scim.create.provider", "  (baseline: the library's provider)", theirs, ours)
