"""The probes and the metrics. FastPath answers the probes; these routes describe them."""

from typing import TYPE_CHECKING

from fastapi import Request, Response
from pydantic import BaseModel, Field

from user_service.bootstrap import Resources
from user_service.users.unit_of_work import UserDatabase
from user_service.web.dependencies import get_parts, get_resources
from user_service.web.health import LIVE
from user_service.web.problems import to_response
from user_service.web.routing import make_router

if TYPE_CHECKING:
    from user_service.web.prometheus import Exposition

router = make_router("operations")


class HealthRead(BaseModel):
    """The result of a probe; `checks` has the state of each dependency."""

    status: str = Field(examples=["ok"])
    checks: dict[str, str] = Field(default_factory=dict)


@router.get("/api/health/live", response_model=HealthRead)
async def read_liveness() -> Response:
    """Whether the process answers."""
    return to_response(LIVE)


@router.get("/api/health/ready", response_model=HealthRead, responses={503: {"model": HealthRead}})
async def read_readiness(request: Request) -> Response:
    """Whether requests can be served, which needs PostgreSQL. Without Redis the status is `degraded`, with 200."""
    return to_response(await get_parts(request).health.ready())


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def read_metrics(request: Request) -> Response:
    """Metrics in the Prometheus text format."""
    await get_resources(request).backlog.refresh()
    exposition = await get_parts(request).exposition.get()
    return Response(exposition.render(), media_type=exposition.content_type)


def open_exposition(resources: Resources, database: UserDatabase) -> "Exposition":
    """The Prometheus client's registry. Imports the client: call it on a worker thread, at the first scrape."""
    from user_service.web.prometheus import Exposition

    return Exposition(resources, database)
