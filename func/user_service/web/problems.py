"""Whatever goes wrong inside FastAPI, as problem details."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from user_service.errors import MalformedJson, ServiceError, ValidationFailed
from user_service.users.validation_errors import field_error
from user_service.web.request_context import RequestContext
from user_service.web.responses import RawResponse, problem_of

# More help nobody, and would make an answer far larger than its request.
MAX_FAULTS: Final = 100
TITLES: Final = {
    400: ("bad_request", "Bad request"),
    404: ("not_found", "There is nothing at this address"),
    405: ("method_not_allowed", "This address does not take that method"),
}


def request_context(request: Request) -> RequestContext:
    context: RequestContext = request.state.context
    return context


def response_of(answer: RawResponse) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = list(answer.headers)
    return response


def problem_response(request: Request, error: ServiceError) -> Response:
    return response_of(problem_of(error, request_context(request).request_id.decode()))


def add_problem_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, answer_service_error)
    app.add_exception_handler(RequestValidationError, answer_validation_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(Exception, answer_unexpected_error)


async def answer_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(request, error)


async def answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(request, refusal_of(error.errors()))


async def answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, title = TITLES.get(error.status_code, ("http_error", "The request was refused"))
    problem = ServiceError(title if error.status_code in TITLES else str(error.detail))
    problem.status, problem.code, problem.title = error.status_code, code, title
    response = problem_response(request, problem)
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(sorted(allowed_methods(request)))
    return response


def allowed_methods(request: Request) -> set[str]:
    """Every method of an address: FastAPI has a route for each, and names the first one's alone."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(request.url.path):
            methods |= route.methods
    return methods | {"HEAD"} if "GET" in methods else methods


async def answer_unexpected_error(request: Request, error: Exception) -> Response:
    """Starlette raises the error again once this is sent, and app.py logs it."""
    return problem_response(request, ServiceError())


def refusal_of(errors: Sequence[Any]) -> ServiceError:
    """The error that a list of pydantic's errors amounts to."""
    for fault in errors:
        if fault["type"] == "json_invalid":
            return MalformedJson(f"The body is not JSON: {fault['ctx']['error']}.")
    return ValidationFailed(errors=[field_error(fault) for fault in errors[:MAX_FAULTS]])
