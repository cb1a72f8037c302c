"""The OpenAPI document: FastAPI's own, with the problem details that the routes declare."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from user_service.web.responses import PROBLEM_TYPE

Responses = dict[int | str, dict[str, Any]]

JSON: Final = "application/json"
PROBLEM_JSON: Final = PROBLEM_TYPE.decode()
PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "Problem details (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id", "errors"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable; see docs/errors.md"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "additionalProperties": False,
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "JSON pointer (RFC 6901) into the body; `?name` for a query parameter",
                    },
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
DESCRIPTIONS: Final = {
    400: "The request is malformed",
    401: "No valid credentials",
    403: "The credentials do not allow this",
    404: "No such user or import",
    409: "In conflict with the user's status, another user, or a request with the same key",
    410: "The response to the first request with this key was erased with its user",
    412: "The version does not meet `If-Match` or `If-None-Match`",
    413: "The body is too large",
    415: "The content type is not supported",
    422: "The request does not fit its schema; `errors` lists up to 100 errors",
    429: "The rate limit is exceeded; retry after `Retry-After` seconds",
    503: "The database is unavailable, or the service is overloaded; retry after `Retry-After` seconds",
}
# app.py checks credentials before FastAPI gets the request.
SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}


def problems(*statuses: int) -> Responses:
    """FastAPI's `responses=` for operations that may return problem details with these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": DESCRIPTIONS[status], "content": {PROBLEM_JSON: {"schema": schema}}}
        for status in statuses
    }


# Errors of every route below /api/v1: app.py checks credentials and rate limits, StrictRoute checks the URL.
COMMON_PROBLEMS: Final = problems(400, 401, 403, 422, 429, 503)


def add_openapi(app: FastAPI) -> None:
    """Replaces `app.openapi` by a function that completes the document, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = complete(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def complete(document: dict[str, Any]) -> dict[str, Any]:
    document["components"]["schemas"]["Problem"] = PROBLEM
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    for operations in document["paths"].values():
        for operation in operations.values():
            if "401" in operation["responses"]:
                operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = without_null(parameter["schema"])
            for response in operation["responses"].values():
                join_problem(response.get("content", {}))
    return document


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an optional parameter without null, which a URL or a header cannot express."""
    others = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(others) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | dict(others[0])


def join_problem(content: dict[str, Any]) -> None:
    """Moves a model that is declared for an error, which FastAPI lists as JSON, to the problem's content type."""
    if JSON in content and PROBLEM_JSON in content:
        schemas = [content.pop(JSON)["schema"], content[PROBLEM_JSON]["schema"]]
        content[PROBLEM_JSON]["schema"] = {"anyOf": schemas}
