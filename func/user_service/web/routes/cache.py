"""`/api/v1/cache`: statistics, clearing and warming of the cache."""

from typing import Annotated, Any

from fastapi import Depends, Query, Request
from pydantic import BaseModel, Field

from user_service.bootstrap import Resources
from user_service.web.dependencies import (
    Lists,
    conditions_on_nothing,
    conditions_without_etag,
    get_resources,
    requires,
)
from user_service.web.openapi import COMMON_PROBLEMS, problems
from user_service.web.query_types import strict_integer
from user_service.web.routing import make_router

WarmLimit = Annotated[int, Field(ge=1, le=10_000), strict_integer]
router = make_router(
    "operations", prefix="/api/v1/cache", dependencies=[Depends(requires("cache:manage"))], responses=COMMON_PROBLEMS
)


class Dropped(BaseModel):
    dropped: int = Field(description="The number of cached users that were dropped")


class Warmed(BaseModel):
    warmed: int = Field(description="The number of users that were read into the cache")


@router.get("", response_model=dict[str, Any])
async def read_cache(request: Request) -> dict[str, Any]:
    """Statistics of the cache, with the hits and misses of this replica."""
    return await read_statistics(get_resources(request))


@router.delete("", dependencies=[conditions_without_etag], responses=problems(412))
async def clear_cache(request: Request) -> Dropped:
    """Drop all cached users; other keys of a shared Redis stay."""
    return Dropped(dropped=await get_resources(request).cache.clear())


@router.post("/warm", dependencies=[conditions_on_nothing], responses=problems(412))
async def warm_cache(request: Request, lists: Lists, limit: Annotated[WarmLimit, Query()] = 1000) -> Warmed:
    """Read the most recently changed users into the cache."""
    return Warmed(warmed=await get_resources(request).reader.warm(await lists.last_changed(limit)))


async def read_statistics(resources: Resources) -> dict[str, Any]:
    """The cache's own statistics, and the `hits`, `misses` and `errors` of this process."""
    metrics = resources.metrics
    return {
        **await resources.cache.statistics(),
        "hits": int(sum(metrics.cache_hits.values.values())),
        "misses": int(sum(metrics.cache_misses.values.values())),
        "errors": int(sum(metrics.cache_errors.values.values())),
    }
