"""Routes by method and path, so that a request reaches its route without the framework's middleware and its search."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from typing import Any, Final, Protocol

from user_service.settings import SCIM_PATH

USERS: Final = "/api/v1/users/"
USER: Final = f"{USERS}{{user_id:user}}"
BELOW_SCIM: Final = f"{SCIM_PATH}/"
ALL_BELOW_SCIM: Final = f"{BELOW_SCIM}{{path:text}}"
# First segments below `USERS` that are no user's id.
RESERVED_SEGMENTS: Final = frozenset({"batch", "by-external-id", "changes", "export", "imports", "me"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class DirectRoute(Protocol):
    """A route that responds to a request by itself."""

    @property
    def path(self) -> str: ...

    @property
    def path_format(self) -> str: ...

    @property
    def methods(self) -> Collection[str] | None: ...

    async def respond(self, scope: Scope, receive: Receive) -> Any:
        """A RawResponse, or an ASGI application that sends the response. Raises ServiceError."""


class RouteTable:
    """Finds the routes whose path has no parameter, those of one user, and those of all that is below `/scim/v2`.

    The framework finds all others.
    """

    def __init__(self, routes: Iterable[DirectRoute]) -> None:
        self.fixed: dict[tuple[str, str], DirectRoute] = {}
        self.of_user: dict[tuple[str, str], DirectRoute] = {}
        self.below_scim: dict[str, DirectRoute] = {}
        for route in routes:
            for method in route.methods or ():
                if "{" not in route.path:
                    self.fixed[method, route.path] = route
                elif route.path.startswith(USER) and "{" not in route.path[len(USER) :]:
                    self.of_user[method, route.path[len(USER) :]] = route
                elif route.path == ALL_BELOW_SCIM:
                    self.below_scim[method] = route

    def find(self, method: str, path: str) -> tuple[DirectRoute, Mapping[str, str]] | None:
        """The route of a request, and its path parameters."""
        route = self.fixed.get((method, path))
        if route is not None:
            return route, {}
        if not path.startswith(USERS):
            route = self.below_scim.get(method) if path.startswith(BELOW_SCIM) else None
            return (route, {"path": path[len(BELOW_SCIM) :]}) if route is not None else None
        user_id, slash, rest = path[len(USERS) :].partition("/")
        route = self.of_user.get((method, slash + rest))
        if route is None or not user_id or user_id in RESERVED_SEGMENTS:
            return None
        return route, {"user_id": user_id}
