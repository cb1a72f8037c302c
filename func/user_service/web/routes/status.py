"""`GET /api/v1/status`: the state of this replica, and `/status`, a page that shows it."""

from contextlib import suppress
from datetime import UTC, datetime
from platform import node, python_version
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response
from pydantic import BaseModel, Field

from user_service import __version__
from user_service.bootstrap import Resources
from user_service.errors import SERVER_ERROR, DatabaseUnavailable
from user_service.observability.metrics import Requests
from user_service.observability.request_stats import Pace, RequestStats, quantile
from user_service.postgres.connections import PoolStats, sum_pools
from user_service.security.api_keys import ApiKey
from user_service.users.imports.runner import Import, ImportRunner
from user_service.web.dependencies import get_database, get_parts, get_resources, requires
from user_service.web.openapi import COMMON_PROBLEMS
from user_service.web.routes.cache import read_statistics
from user_service.web.routes.scim import base_url
from user_service.web.routing import make_router
from user_service.web.static import load_status_page

VERSIONS: Final = """
SELECT current_setting('server_version') AS postgresql, (SELECT version_num FROM alembic_version) AS revision
"""

IMPORTS_SHOWN: Final = 20

router = make_router("operations", responses=COMMON_PROBLEMS)
page_router = make_router("operations")

Milliseconds = Annotated[float | None, Field(description="Null where there was no response")]


class VersionsRead(BaseModel):
    service: str
    python: str
    postgresql: str | None = Field(description="Null while the database does not answer")
    revision: str | None = Field(description="The newest migration that was run")


class PaceRead(BaseModel):
    seconds: float = Field(description="The length of the window")
    per_second: float
    error_ratio: float = Field(description="The share of responses with 5xx")
    p50_milliseconds: Milliseconds
    p95_milliseconds: Milliseconds
    p99_milliseconds: Milliseconds


class RouteRead(BaseModel):
    """A route since the start."""

    method: str
    route: str
    answered: int
    errors: int
    p95_milliseconds: Milliseconds


class RequestsRead(BaseModel):
    in_flight: int
    answered: int = Field(description="Since the start")
    last_minute: PaceRead
    history: list[PaceRead] = Field(description="Steps of five seconds for the last five minutes, the oldest first")
    routes: list[RouteRead] = Field(description="The busiest first")


class CacheRead(BaseModel):
    tier: str
    hits: int
    misses: int
    errors: int
    hit_ratio: float | None
    details: dict[str, Any]


class DatabaseRead(BaseModel):
    """The connections of all pools."""

    limit: int
    open: int
    active: int
    waiting: int
    errors: int


class OutboxRead(BaseModel):
    """Changes whose events are not sent yet. At most 1,000 are counted in each partition."""

    pending: int
    oldest_seconds: float


class FeedRead(BaseModel):
    """The feed of changes, whose sequencer gives each committed change a position."""

    last_position: int
    waiting: int = Field(description="Committed changes without a position, of 1,000 statements at most")
    oldest_seconds: float | None = Field(description="The age of the oldest of these; null where there is none")


class JobRead(BaseModel):
    """A batch or an import."""

    kind: str
    operation: str
    state: str
    total: int | None
    done: int
    failed: int
    started_at: datetime
    ended_at: datetime | None


class ApiKeyRead(BaseModel):
    """An API key that this replica accepts."""

    name: str = Field(description="Its fingerprint for a key of `INTERNAL_API_KEY`")
    fingerprint: str = Field(description="The first eight digits of its SHA-256", examples=["1f2e3d4c"])
    scopes: list[str]
    expires: datetime | None
    last_used_at: datetime | None = Field(description="By this replica, since its start")


class StatusRead(BaseModel):
    """One replica as it is now."""

    status: str = Field(description="`ok`, `degraded`, `unavailable` or `stopping`")
    checks: dict[str, str]
    instance: str
    serve: str
    admin_page: bool = Field(description="Whether `/admin` is served")
    scim: str | None = Field(description="The URL of the SCIM endpoints; null while SCIM is off")
    started_at: datetime
    now: datetime
    versions: VersionsRead
    requests: RequestsRead
    cache: CacheRead
    database: DatabaseRead
    outbox: OutboxRead
    feed: FeedRead | None = Field(description="Null while the database does not answer")
    api_keys: list[ApiKeyRead] = Field(description="By name")
    jobs: list[JobRead] = Field(description="This replica's batches and all imports, the newest first")


@router.get("/api/v1/status", dependencies=[Depends(requires("cache:manage"))])
async def read_status(request: Request) -> StatusRead:
    """The state of this replica: health, versions, requests, cache, database, outbox, feed, keys and jobs."""
    resources = get_resources(request)
    parts = get_parts(request)
    health = await parts.health.check()
    return StatusRead(
        status=health.status,
        checks=health.checks,
        instance=node(),
        serve=resources.settings.serve,
        admin_page=resources.settings.has_admin_page,
        scim=base_url(request) if resources.settings.has_scim else None,
        started_at=resources.created_at,
        now=datetime.now(UTC),
        versions=await read_versions(resources),
        requests=summarise_requests(resources.metrics.requests, resources.request_stats),
        cache=await summarise_cache(resources),
        database=summarise_connections(sum_pools([resources.pool.stats, *get_database(request).pool_stats]), resources),
        outbox=await read_outbox(resources),
        feed=await read_feed(resources),
        api_keys=sorted(map(convert_key, resources.api_keys.all), key=lambda key: key.name),
        jobs=await list_jobs(resources, parts.services.imports),
    )


@page_router.get("/status", include_in_schema=False)
async def read_status_page() -> Response:
    page = load_status_page()
    return Response(page.content, 200, {"Content-Security-Policy": page.policy}, "text/html; charset=utf-8")


async def read_versions(resources: Resources) -> VersionsRead:
    try:
        ((postgresql, revision),) = await resources.pool.fetch(VERSIONS)
    except DatabaseUnavailable:
        postgresql = revision = None
    return VersionsRead(service=__version__, python=python_version(), postgresql=postgresql, revision=revision)


def summarise_requests(requests: Requests, recent: RequestStats) -> RequestsRead:
    routes = list_routes(requests)
    return RequestsRead(
        in_flight=requests.in_flight,
        answered=sum(route.answered for route in routes),
        last_minute=convert_pace(recent.last_minute),
        history=[convert_pace(pace) for pace in recent.history],
        routes=routes,
    )


def list_routes(requests: Requests) -> list[RouteRead]:
    answered, durations = requests.families
    errors: dict[tuple[str, ...], int] = {}
    for (method, route, status), count in answered.values.items():
        errors[method, route] = errors.get((method, route), 0) + (int(count) if int(status) >= SERVER_ERROR else 0)
    routes = [
        RouteRead(
            method=method,
            route=route,
            answered=sum(series.counts),
            errors=errors[method, route],
            p95_milliseconds=to_milliseconds(quantile(series.counts, 0.95)),
        )
        for (method, route), series in durations.series.items()
    ]
    return sorted(routes, key=lambda route: route.answered, reverse=True)


def convert_pace(pace: Pace) -> PaceRead:
    return PaceRead(
        seconds=round(pace.seconds, 1),
        per_second=round(pace.per_second, 2),
        error_ratio=round(pace.error_ratio, 4),
        p50_milliseconds=to_milliseconds(pace.p50_seconds),
        p95_milliseconds=to_milliseconds(pace.p95_seconds),
        p99_milliseconds=to_milliseconds(pace.p99_seconds),
    )


async def summarise_cache(resources: Resources) -> CacheRead:
    details = await read_statistics(resources)
    tier, hits, misses, errors = (details.pop(name) for name in ("tier", "hits", "misses", "errors"))
    ratio = round(hits / (hits + misses), 4) if hits + misses else None
    return CacheRead(tier=tier, hits=hits, misses=misses, errors=errors, hit_ratio=ratio, details=details)


def summarise_connections(total: PoolStats, resources: Resources) -> DatabaseRead:
    errors = int(sum(resources.metrics.database_errors.values.values()))
    return DatabaseRead(limit=total.limit, open=total.opened, active=total.active, waiting=total.waiting, errors=errors)


async def read_outbox(resources: Resources) -> OutboxRead:
    await resources.backlog.refresh()
    return OutboxRead(pending=resources.backlog.pending, oldest_seconds=round(resources.backlog.oldest_seconds, 1))


async def read_feed(resources: Resources) -> FeedRead | None:
    try:
        state = await resources.feed.state()
    except DatabaseUnavailable:
        return None
    oldest = None if state.oldest_seconds is None else round(state.oldest_seconds, 1)
    return FeedRead(last_position=state.last_position, waiting=state.waiting, oldest_seconds=oldest)


def convert_key(key: ApiKey) -> ApiKeyRead:
    return ApiKeyRead(
        name=key.name,
        fingerprint=key.fingerprint,
        scopes=sorted(key.principal.scopes),
        expires=to_time(key.expires_at),
        last_used_at=to_time(key.last_used_at),
    )


def to_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


async def list_jobs(resources: Resources, imports: ImportRunner) -> list[JobRead]:
    """This replica's batches, and the imports of all replicas unless the database is unavailable."""
    jobs = [JobRead.model_validate(job, from_attributes=True) for job in resources.jobs.jobs]
    with suppress(DatabaseUnavailable):
        jobs += [convert_import(row) for row in await imports.latest(IMPORTS_SHOWN)]
    return sorted(jobs, key=lambda job: job.started_at, reverse=True)


def convert_import(row: Import) -> JobRead:
    """The total is null until the import is completed: only its sender knows it before."""
    return JobRead(
        kind="import",
        operation=row["format"],
        state=row["state"],
        total=row["position"] if row["state"] == "completed" else None,
        done=row["position"],
        failed=row["failed"],
        started_at=row["started_at"],
        ended_at=row["finished_at"],
    )


def to_milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
