"""What operators ask: the cache, the metrics, the documentation. The probes are in lane.py."""

from asyncio import to_thread
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, Field

from user_service.bootstrap import Resources
from user_service.users.unit_of_work import Storage
from user_service.web.dependencies import Search, requires, resources_of
from user_service.web.health import LIVE
from user_service.web.problems import response_of
from user_service.web.query_types import whole_number
from user_service.web.routing import make_router
from user_service.web.static import load_page

if TYPE_CHECKING:
    from user_service.web.prometheus import Exposition

WarmLimit = Annotated[int, Field(ge=1, le=10_000), whole_number]
router = make_router("operations", prefix="/api/v1/cache")
open_router = make_router("operations")


class HealthRead(BaseModel):
    """What a probe says; `checks` names each dependency."""

    status: str = Field(examples=["ok"])
    checks: dict[str, str] = Field(default_factory=dict)


class Dropped(BaseModel):
    dropped: int = Field(description="How many cached users were dropped")


class Warmed(BaseModel):
    warmed: int = Field(description="How many users were read into the cache")


@router.get("", response_model=dict[str, Any], dependencies=[Depends(requires("cache:manage"))])
async def read_cache(request: Request) -> dict[str, Any]:
    """Statistics of the cache, with the hits and misses of this replica."""
    resources = resources_of(request)
    metrics = resources.metrics
    return {
        **await resources.cache.statistics(),
        "hits": int(sum(metrics.cache_hits.values.values())),
        "misses": int(sum(metrics.cache_misses.values.values())),
        "errors": int(sum(metrics.cache_errors.values.values())),
    }


@router.delete("", dependencies=[Depends(requires("cache:manage"))])
async def clear_cache(request: Request) -> Dropped:
    """Drop this service's cached users; other keys of a shared Redis stay."""
    return Dropped(dropped=await resources_of(request).cache.clear())


@router.post("/warm", dependencies=[Depends(requires("cache:manage"))])
async def warm_cache(request: Request, search: Search, limit: Annotated[WarmLimit, Query()] = 1000) -> Warmed:
    """Read the users that changed last into the cache."""
    return Warmed(warmed=await resources_of(request).reader.warm(await search.last_changed(limit)))


@open_router.get("/api/health/live", response_model=HealthRead)
async def read_liveness() -> Response:
    """Whether the process answers."""
    return response_of(LIVE)


@open_router.get("/api/health/ready", response_model=HealthRead, responses={503: {"model": HealthRead}})
async def read_readiness(request: Request) -> Response:
    """Whether requests can be served: PostgreSQL answers. Without Redis the status is `degraded`, with 200."""
    return response_of(await request.app.state.fast_path.health.ready())


@open_router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def read_metrics(request: Request) -> Response:
    """Metrics in the Prometheus text format."""
    resources, state = resources_of(request), request.app.state
    await resources.backlog.look()
    if state.exposition is None:
        state.exposition = await to_thread(open_exposition, resources, state.storage)
    return Response(state.exposition.render(), media_type=state.exposition.content_type)


def open_exposition(resources: Resources, storage: Storage) -> "Exposition":
    """For the first scrape: the Prometheus client is imported with it."""
    from user_service.web.prometheus import Exposition

    return Exposition(resources, storage)


@open_router.get("/openapi.json", include_in_schema=False)
async def read_openapi(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


@open_router.get("/docs", include_in_schema=False)
async def read_docs() -> Response:
    content, policy = load_page("docs.html")
    return Response(content, 200, {"Content-Security-Policy": policy}, "text/html; charset=utf-8")
