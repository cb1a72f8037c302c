"""The API: every route of the service, over the parts that the composition root made."""

from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import FastAPI

from user_service.bootstrap import Resources
from user_service.values.deferred import Deferred
from user_service.web.bulkhead import Bulkhead
from user_service.web.dependencies import ApiParts, ServiceApi
from user_service.web.fast_path import FastPath
from user_service.web.health import Health
from user_service.web.openapi_document import add_openapi
from user_service.web.problems import add_problem_handlers
from user_service.web.route_table import RouteTable
from user_service.web.routes import (
    admin,
    audit,
    batches,
    cache,
    changes,
    docs,
    events,
    imports,
    privacy,
    probes,
    scim,
    status,
    users,
    whoami,
)
from user_service.web.routing import StrictRoute

API_ROUTERS: Final = (
    users.router,
    changes.router,
    batches.router,
    batches.find_router,
    imports.router,
    privacy.router,
    audit.router,
    cache.router,
    status.router,
    whoami.router,
)
OPEN_ROUTERS: Final = (probes.router, docs.router, status.page_router)
ROUTERS: Final = {"api": API_ROUTERS, "events": (events.router,), "all": (*API_ROUTERS, events.router)}


@dataclass(frozen=True, slots=True)
class Api:
    """The FastAPI application, and those of its routes that respond without it."""

    app: FastAPI
    routes: RouteTable


def create_api(resources: Resources, fast_path: FastPath, health: Health, bulkhead: Bulkhead) -> Api:
    """The API, whose `parts` are for its own routes."""
    app = ServiceApi(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    services = resources.open_services()
    exposition = Deferred(partial(probes.open_exposition, resources, services.database))
    directory = Deferred(partial(scim.open_scim, services.database, resources.keys))
    app.parts = ApiParts(resources, services, fast_path, health, bulkhead, exposition, directory)
    # `include_router` would make each route again at the first request, and match each twice from then on.
    routers = [*ROUTERS[resources.settings.serve], *OPEN_ROUTERS]
    if resources.settings.has_admin_page:
        routers.append(admin.router)
        app.state.oidc_discovery = admin.defer_discovery(resources.settings)
    if resources.settings.webhook_origins and resources.settings.serve != "api":
        routers.append(events.webhook_router)
    if resources.settings.has_scim:
        routers.append(scim.router)
    for router in routers:
        app.router.routes += router.routes
    add_problem_handlers(app)
    add_openapi(app)
    direct = (route for route in app.router.routes if isinstance(route, StrictRoute) and route.is_direct)
    return Api(app, RouteTable(direct))
