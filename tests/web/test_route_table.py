"""The table of routes finds what the framework's own search finds"""

import httpx
import pytest
from starlette.routing import Match

from user_service.app import Application
from user_service.web.api import Api
from user_service.web.route_table import RESERVED_SEGMENTS
from user_service.web.routing import StrictRoute

USERS = "/api/v1/users"
PATHS = [
    *(
        f"{USERS}{rest}"
        for rest in ("", "/", "/7", "/7/", "/7/login", "/7/login/", "/7/unknown", "//login", "/7/8/login")
    ),
    *(f"{USERS}/{segment}{rest}" for segment in sorted(RESERVED_SEGMENTS) for rest in ("", "/", "/login", "/audit")),
    *(f"{USERS}/batch/{operation}" for operation in ("create", "update", "delete", "restore", "find", "other")),
    f"{USERS}/melon",
    f"{USERS}/by-external-id/7",
    f"{USERS}/line\nbreak",
    "/api/v1/status",
    "/api/v1/cache/warm",
    "/status",
    "/events",
    "/",
    "",
]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# They have other parameters than a user's id.
NOT_IN_THE_TABLE = f"{USERS}/by-external-id/{{external_id:text}}", f"{USERS}/imports/{{import_id}}"


@pytest.mark.parametrize("method", METHODS)
async def test_both_find_the_same(application: Application, shared_client: httpx.AsyncClient, method: str) -> None:
    api = await application.api.get()
    assert isinstance(api, Api)

    differing = {}
    for path in PATHS:
        scope = {"type": "http", "method": method, "path": path, "headers": []}
        expected: object = None
        for route in api.app.router.routes:
            match, child = route.matches(scope)
            if match == Match.FULL:
                is_direct = isinstance(route, StrictRoute) and route.is_direct and route.path not in NOT_IN_THE_TABLE
                expected = (route, child["path_params"]) if is_direct else None
                break
        found: object = api.routes.find(method, path)
        if found != expected:
            differing[path] = found, expected

    assert differing == {}


async def test_the_table_has_the_hot_routes(application: Application) -> None:
    api = await application.api.get()

    assert api.routes.find("POST", USERS) is not None
    assert api.routes.find("PATCH", f"{USERS}/7") == (api.routes.of_user["PATCH", ""], {"user_id": "7"})
    assert api.routes.find("POST", f"{USERS}/batch/find") is not None
