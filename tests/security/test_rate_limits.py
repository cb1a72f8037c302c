"""How much a principal may ask for in a minute."""

import asyncio
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from support.api import USERS
from support.issuer import AUDIENCE, Issuer
from support.live_server import LiveServer, live
from support.servers import RedisServer
from support.settings import API_KEY, make_settings
from support.waiting import PATIENCE_SECONDS
from user_service.errors import RateLimited
from user_service.observability.metrics import Metrics
from user_service.security.principals import Principal
from user_service.security.rate_limits import Allowance, Limiter
from user_service.settings import Settings
from user_service.values.api_keys import SCOPES

PATIENT = {"rate_limit_budget_seconds": 30.0}
PRINCIPAL = Principal("jwt", "jwt:0123456789abcdef", frozenset())


@pytest.fixture
def limited(database_url: str, data_dir: Path, shared_issuer: Issuer) -> Settings:
    """Ten a minute for a token, none for keys."""
    return make_settings(
        database_url,
        data_dir,
        jwt_issuer=shared_issuer.url,
        jwt_audience=AUDIENCE,
        jwt_jwks_url=shared_issuer.jwks_url,
        rate_limit_max=10,
    )


def as_subject(server: LiveServer, issuer: Issuer, subject: str) -> httpx.Client:
    return server.client(Authorization=f"Bearer {issuer.token(sub=subject, scope=' '.join(SCOPES))}")


def remaining(response: httpx.Response) -> int:
    """What the answer says is left, its header's form checked."""
    state = re.fullmatch(r'"default";r=(\d+);t=(\d+)', response.headers["ratelimit"])
    assert state is not None, response.headers["ratelimit"]
    assert 0 <= int(state[2]) <= 60
    return int(state[1])


def test_a_subject_has_so_many_requests_and_another_its_own(limited: Settings, shared_issuer: Issuer) -> None:
    with live(limited) as server:
        with as_subject(server, shared_issuer, "one") as client:
            granted = [client.get(USERS) for _ in range(10)]
            refused = client.get(USERS)
        with as_subject(server, shared_issuer, "other") as client:
            other = client.get(USERS)

    assert [response.status_code for response in granted] == [200] * 10
    assert [remaining(response) for response in granted] == list(range(9, -1, -1))
    assert {response.headers["ratelimit-policy"] for response in granted} == {'"default";q=10;w=60'}
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert remaining(refused) == 0
    assert other.status_code == 200


def test_fast_path_and_api_share_a_limit(limited: Settings, shared_issuer: Issuer) -> None:
    with live(limited) as server, as_subject(server, shared_issuer, "one") as client:
        made = client.post(USERS, json={"email": "ada@example.org"})
        statuses = [client.get(f"{USERS}/{made.json()['id']}").status_code for _ in range(10)]

    assert statuses == [200] * 9 + [429]


def test_batches_cost_by_their_items(limited: Settings, shared_issuer: Issuer) -> None:
    with live(limited) as server, as_subject(server, shared_issuer, "one") as client:
        created = client.post(f"{USERS}/batch/create", json={"items": [{"data": {}}] * 250})
        found = client.post(f"{USERS}/batch/find", json={"emails": ["a@example.org"] * 150, "external_ids": ["a"] * 51})
        refused = client.post(f"{USERS}/batch/delete", json={"items": [{"id": "a"}] * 600})

    assert (remaining(created), remaining(found)) == (7, 4)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")


def test_a_refused_request_with_no_scope_counts_too(limited: Settings, shared_issuer: Issuer) -> None:
    token = shared_issuer.token(sub="one")

    with live(limited) as server, server.client(Authorization=f"Bearer {token}") as client:
        statuses = [client.get(USERS).status_code for _ in range(11)]

    assert statuses == [403] * 10 + [429]


def test_keys_have_no_limit_unless_one_is_set(limited: Settings) -> None:
    with live(limited) as server, server.client() as client:
        free = [client.get(USERS) for _ in range(12)]
    with live(replace(limited, rate_limit_internal_max=3)) as server, server.client() as client:
        bound = [client.get(USERS).status_code for _ in range(4)]

    assert [response.status_code for response in free] == [200] * 12
    assert all("ratelimit" not in response.headers for response in free)
    assert bound == [200, 200, 200, 429]


def test_probes_and_metrics_are_free(limited: Settings) -> None:
    settings = replace(limited, rate_limit_internal_max=1)

    with live(settings) as server, server.client() as client:
        statuses = [client.get(path).status_code for path in ("/api/health/live", "/metrics") * 3]

    assert statuses == [200] * 6


def test_replicas_share_a_limit_through_redis(limited: Settings, shared_issuer: Issuer, redis_url: str) -> None:
    settings = replace(limited, redis_url=redis_url)

    with (
        live(settings, **PATIENT) as first,
        live(settings, **PATIENT) as second,
        as_subject(first, shared_issuer, "one") as a,
        as_subject(second, shared_issuer, "one") as b,
    ):
        statuses = [client.get(USERS).status_code for client in (a, b) * 8]

    assert statuses.count(200) == 10
    assert statuses[10:] == [429] * 6


def test_concurrent_requests_get_no_more_than_the_limit(
    limited: Settings, shared_issuer: Issuer, redis_url: str
) -> None:
    settings = replace(limited, redis_url=redis_url)

    with (
        live(settings, **PATIENT) as server,
        as_subject(server, shared_issuer, "one") as client,
        ThreadPoolExecutor(8) as pool,
    ):
        statuses = list(pool.map(lambda _: client.get(USERS).status_code, range(40)))

    assert statuses.count(200) == 10
    assert statuses.count(429) == 30


@pytest.mark.parametrize("trouble", ["stop", "pause"])
def test_without_redis_a_replica_counts_for_itself(
    limited: Settings, shared_issuer: Issuer, own_redis: RedisServer, trouble: str
) -> None:
    settings = replace(limited, redis_url=own_redis.url, cache="none")

    with live(settings, **PATIENT) as server, as_subject(server, shared_issuer, "one") as client:
        first = client.get(USERS).status_code
        getattr(own_redis, trouble)()
        try:
            away = [client.get(USERS).status_code for _ in range(11)]
        finally:
            if trouble == "pause":
                own_redis.resume()
        errors = server.metrics.rate_limit_errors.values[()]

    assert first == 200
    assert away == [200] * 10 + [429]
    assert 0 < errors < 11


def test_a_redis_that_is_back_counts_again(limited: Settings, shared_issuer: Issuer, own_redis: RedisServer) -> None:
    settings = replace(limited, redis_url=own_redis.url, cache="none")

    with live(settings, **PATIENT) as server, as_subject(server, shared_issuer, "one") as client:
        own_redis.stop()
        while_stopped = {client.get(USERS).status_code for _ in range(4)}
        own_redis.start()
        deadline = time.monotonic() + 60
        while b"rate" not in own_redis.command("KEYS *"):
            assert time.monotonic() < deadline, "Redis is not used again"
            client.get(USERS)
            time.sleep(0.05)

    assert while_stopped == {200}


def test_redis_holds_no_subject_and_only_keys_of_the_prefix(
    limited: Settings, shared_issuer: Issuer, own_redis: RedisServer
) -> None:
    settings = replace(limited, redis_url=own_redis.url, cache="none", redis_key_prefix="directory:")

    with live(settings, **PATIENT) as server, as_subject(server, shared_issuer, "ada@example.org") as client:
        assert client.get(USERS).status_code == 200

    keys = own_redis.command("KEYS *")
    assert b"directory:rate" in keys
    assert b"ada@" not in keys
    assert keys.startswith(b"*1\r\n")


def limiter(**settings: int) -> Limiter:
    return Limiter(Settings(**settings), Metrics())  # type: ignore[arg-type]


def allowance_in(made: Limiter) -> Allowance:
    allowance = made.find_allowance(PRINCIPAL)
    assert allowance is not None
    return allowance


async def test_a_limited_request_is_one_command_to_redis(own_redis: RedisServer) -> None:
    made = Limiter(Settings(rate_limit_max=10_000, redis_url=own_redis.url), Metrics(), budget_seconds=PATIENCE_SECONDS)

    for _ in range(100):
        await allowance_in(made).charge()
    await asyncio.gather(*(allowance_in(made).charge() for _ in range(100)))
    await made.close()

    calls = dict(re.findall(r"cmdstat_([\w|]+):calls=(\d+)", own_redis.command("INFO commandstats").decode()))
    # The first one finds the script missing and sends it. Of the hundred that wait together, all travel in one.
    assert (int(calls["evalsha"]), int(calls["script|load"])) == (102, 1)
    assert int(calls["hset"]) == 200


@pytest.mark.parametrize(("items", "cost"), [(0, 1), (1, 1), (100, 1), (101, 2), (250, 3), (1000, 10)])
async def test_a_batch_costs_one_for_each_hundred_items_begun(items: int, cost: int) -> None:
    allowance = allowance_in(limiter(rate_limit_max=100))

    await allowance.charge()
    await allowance.charge_items(items)

    assert 100 - allowance.remaining == cost


async def test_a_batch_that_costs_more_than_the_limit_takes_all_of_it() -> None:
    allowance = allowance_in(limiter(rate_limit_max=5))

    await allowance.charge_items(1000)

    with pytest.raises(RateLimited):
        await allowance.charge()


async def test_a_large_limit_is_exact_over_all_replicas(redis_url: str) -> None:
    settings, metrics = Settings(rate_limit_max=2000, redis_url=redis_url), Metrics()
    replicas = [Limiter(settings, metrics, budget_seconds=PATIENCE_SECONDS) for _ in range(3)]
    granted = 0

    for number in range(2300):
        with suppress(RateLimited):
            await allowance_in(replicas[number % 3]).charge()
            granted += 1
    for replica in replicas:
        await replica.close()

    assert granted == 2000


def test_nothing_of_tokens_and_limits_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, user_service.app, user_service.bootstrap;"
        "late = {'jwt', 'redis', 'urllib.request', 'fastapi', 'sqlalchemy', 'pydantic'};"
        "print(sorted(late & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_an_api_key_costs_no_imports_either(database_url: str, data_dir: Path, redis_url: str) -> None:
    settings = make_settings(database_url, data_dir, redis_url=redis_url)

    with live(settings) as server, server.client() as client:
        assert client.get(USERS, headers={"X-API-Key": API_KEY}).status_code == 200
        assert (shared := server.application.resources.limiter.shared) is not None
        assert shared.task is None
        assert server.application.authenticator.tokens.verifier.task is None


async def test_a_limiter_that_was_not_asked_connects_to_nothing() -> None:
    made = Limiter(Settings(redis_url="redis://localhost:1/0", rate_limit_max=10), Metrics())

    await made.close()

    assert made.shared is not None
    assert made.shared.task is None
