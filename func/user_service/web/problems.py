"""Problem details (RFC 9457) for the errors that reach FastAPI."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from user_service.errors import FieldError, MalformedJson, ServiceError, ValidationFailed
from user_service.users.validation_errors import field_error
from user_service.web.request_context import RequestContext
from user_service.web.responses import RawResponse

# More would make a response far larger than its request.
MAX_FIELD_ERRORS: Final = 100
TITLES: Final = {
    400: ("bad_request", "Bad request"),
    404: ("not_found", "No resource has this address"),
    405: ("method_not_allowed", "The resource does not support this method"),
}


def request_context(request: Request) -> RequestContext:
    context: RequestContext = request.scope["state"]["context"]
    return context


def to_response(raw: RawResponse) -> Response:
    response = Response(raw.body, raw.status)
    response.raw_headers = list(raw.headers)
    return response


def problem_response(request: Request, error: ServiceError) -> Response:
    return to_response(request_context(request).render_error(error))


def add_problem_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, handle_service_error)
    app.add_exception_handler(RequestValidationError, handle_validation_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(Exception, handle_unexpected_error)


async def handle_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(request, error)


async def handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    has_plus = b"+" in request.scope["query_string"]
    return problem_response(request, to_service_error(error.errors(), has_plus=has_plus))


async def handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, title = TITLES.get(error.status_code, ("http_error", "The request was refused"))
    problem = ServiceError(title if error.status_code in TITLES else str(error.detail))
    problem.status, problem.code, problem.title = error.status_code, code, title
    response = problem_response(request, problem)
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(sorted(allowed_methods(request)))
    return response


def allowed_methods(request: Request) -> set[str]:
    """The methods of every route that matches the path; Starlette names those of the first one."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(request.url.path):
            methods |= route.methods
    return methods | {"HEAD"} if "GET" in methods else methods


async def handle_unexpected_error(request: Request, error: Exception) -> Response:
    """Starlette raises the error again once the response is sent, and app.py logs it."""
    return problem_response(request, ServiceError())


def to_service_error(faults: Sequence[Any], *, has_plus: bool = False) -> ServiceError:
    """MalformedJson or ValidationFailed for pydantic's errors of one request; `has_plus`: its query has a bare plus."""
    for fault in faults:
        if fault["type"] == "json_invalid":
            return MalformedJson(f"The body is not JSON: {fault['ctx']['error']}.")
    described = [describe(fault, has_plus=has_plus) for fault in faults[:MAX_FIELD_ERRORS]]
    return ValidationFailed(errors=described)


def describe(fault: Any, *, has_plus: bool) -> FieldError:
    """An error of a field; for a query value with a space where the query has a bare plus, with a hint."""
    described = field_error(fault)
    value = fault.get("input")
    if has_plus and fault["loc"][0] == "query" and isinstance(value, str) and " " in value:
        return described._replace(detail=f"{described.detail}; a plus sign in a URL is written %2B")
    return described
