"""The arguments of an endpoint, taken straight from the request.

FastAPI reads an endpoint's signature once, as a tree of parameters and dependencies, and makes the OpenAPI document of
it. This module resolves the same tree for each request, without FastAPI's exit stacks, request models and wrappers: it
takes a tenth of the time. Values are validated by the same validators, and errors have the same places and order.
"""

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, Final

import orjson
from fastapi import Request
from fastapi.dependencies.models import Dependant

from user_service.errors import MalformedJson
from user_service.web.problems import to_service_error

NO_BODY: Final = object()
# What a dependency can ask FastAPI for besides the parameters that are resolved here, and the request.
OTHER_PARAMETERS: Final = (
    "cookie_params",
    "websocket_param_name",
    "http_connection_param_name",
    "response_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
)
ABSENT: Final = object()


class Parameter:
    """A parameter in the path, the query or the headers."""

    __slots__ = ("default", "key", "location", "name", "validate")

    def __init__(self, field: Any, part: str) -> None:
        self.name: str = field.name
        self.key: Any = field.alias.lower().encode() if part == "header" else field.alias
        self.location = (part, field.alias)
        self.default = ABSENT if field.field_info.is_required() else field.get_default()
        self.validate: Callable[..., tuple[Any, list[Any]]] = field.validate


class Arguments:
    """The arguments of an endpoint, or of a dependency: its parameters, and the results of its own dependencies."""

    def __init__(self, dependant: Dependant) -> None:
        self.name = dependant.name
        self.call: Any = dependant.call
        self.dependencies = list(map(Arguments, dependant.dependencies))
        self.request_name = dependant.request_param_name
        self.path = [Parameter(field, "path") for field in dependant.path_params]
        self.query = [Parameter(field, "query") for field in dependant.query_params]
        self.headers = [Parameter(field, "header") for field in dependant.header_params]
        self.body: Any = dependant.body_params[0] if dependant.body_params else None

    async def resolve(
        self, request: Request, query: Mapping[str, str], headers: Mapping[bytes, bytes], body: object
    ) -> dict[str, Any]:
        """The arguments by name. `body` is the parsed document, or NO_BODY. Raises ValidationFailed."""
        faults: list[Any] = []
        values = await self.collect(request, query, headers, faults, {})
        if self.body is not None:
            values[self.body.name] = self.check_body(body, faults)
        if faults:
            raise to_service_error(faults, has_plus=b"+" in request.scope["query_string"])
        return values

    async def collect(
        self,
        request: Request,
        query: Mapping[str, str],
        headers: Mapping[bytes, bytes],
        faults: list[Any],
        known: dict[Any, Any],
    ) -> dict[str, Any]:
        """The arguments besides the body. A dependency whose parameters have faults is not called."""
        values: dict[str, Any] = {}
        for inner in self.dependencies:
            if inner.call in known:
                result = known[inner.call]
            else:
                before = len(faults)
                arguments = await inner.collect(request, query, headers, faults, known)
                if len(faults) > before:
                    continue
                result = known[inner.call] = await inner.call(**arguments)
            if inner.name is not None:
                values[inner.name] = result
        if self.path:
            check(self.path, request.scope["path_params"], values, faults)
        if self.query:
            check(self.query, query, values, faults)
        for parameter in self.headers:
            text = headers.get(parameter.key)
            check((parameter,), {} if text is None else {parameter.key: text.decode("latin-1")}, values, faults)
        if self.request_name is not None:
            values[self.request_name] = request
        return values

    def check_body(self, document: object, faults: list[Any]) -> Any:
        if document is NO_BODY or document is None:
            faults.append({"type": "missing", "loc": ("body",), "msg": "Field required", "input": None})
            return None
        value, found = self.body.validate(document, loc=("body",))
        faults += found
        return value


def check(parameters: Any, given: Mapping[Any, str], values: dict[str, Any], faults: list[Any]) -> None:
    """Adds the values of parameters, validated or by default, and the faults of those that are missing or invalid."""
    for parameter in parameters:
        text = given.get(parameter.key)
        if text is not None:
            values[parameter.name], found = parameter.validate(text, loc=parameter.location)
            faults += found
        elif parameter.default is ABSENT:
            faults.append({"type": "missing", "loc": parameter.location, "msg": "Field required", "input": None})
        else:
            values[parameter.name] = parameter.default


def parse_json(body: bytes) -> object:
    """The document of a body; NO_BODY without one. Raises MalformedJson."""
    if not body:
        return NO_BODY
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"The body is not JSON: {error.msg}.") from None


def is_resolvable(dependant: Dependant) -> bool:
    """Whether `Arguments` can resolve an endpoint: all dependencies are coroutines, none yields."""
    return (
        iscoroutinefunction(dependant.call)
        and not any(getattr(dependant, name) for name in OTHER_PARAMETERS)
        and len(dependant.body_params) <= 1
        and all(map(is_resolvable, dependant.dependencies))
    )
