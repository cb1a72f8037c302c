"""The FastAPI application: every route, over storage that is opened here."""

from typing import Final

from fastapi import FastAPI

from user_service import __version__
from user_service.bootstrap import Resources
from user_service.events.inbox import Inbox
from user_service.users.batch.runner import BatchRunner
from user_service.users.imports.runner import ImportRunner
from user_service.users.unit_of_work import Storage
from user_service.web.bulkhead import Bulkhead
from user_service.web.fast_path import FastPath
from user_service.web.openapi import add_openapi
from user_service.web.problems import add_problem_handlers
from user_service.web.routes import batches, cache, docs, events, imports, privacy, probes, status, users

API_ROUTERS: Final = (
    users.router,
    batches.router,
    batches.find_router,
    imports.router,
    privacy.router,
    cache.router,
    status.router,
)
OPEN_ROUTERS: Final = (probes.router, docs.router, status.page_router)
# One is checked and sealed while PostgreSQL writes two. More take ten megabytes each and are done no sooner.
LARGE_BODIES_AT_ONCE: Final = 3
# A hundred batches can be done before; who still waits by then would keep the places of smaller requests.
WAIT_SECONDS: Final = 5.0
ROUTERS: Final = {"api": API_ROUTERS, "events": (events.router,), "all": (*API_ROUTERS, events.router)}


def create_api(resources: Resources, fast_path: FastPath) -> FastAPI:
    """The application over open resources; `app.state.storage` is the caller's to close."""
    app = FastAPI(
        title="User Service",
        version=__version__,
        description="The user directory of a microservice backend.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.resources = resources
    app.state.fast_path = fast_path
    app.state.storage = Storage(
        resources.settings,
        resources.keys,
        resources.cache,
        resources.metrics,
        size=resources.engine_size,
        after_change=resources.wake_relay,
    )
    resources.follow(app.state.storage.adopt)
    if resources.tracing is not None:
        app.state.storage.trace(resources.tracing)
    app.state.batches = BatchRunner(app.state.storage, resources.reader, resources.activity)
    app.state.imports = ImportRunner(app.state.batches)
    app.state.room = Bulkhead(LARGE_BODIES_AT_ONCE, seconds=WAIT_SECONDS)
    app.state.exposition = None
    app.state.inbox = Inbox(app.state.batches, resources.keys.cipher, resources.metrics, relay=resources.relay_now)
    # Including a router would make each of its routes again, at the first request, and match each twice from then on.
    for router in (*ROUTERS[resources.settings.serve], *OPEN_ROUTERS):
        app.router.routes += router.routes
    add_problem_handlers(app)
    add_openapi(app)
    return app
