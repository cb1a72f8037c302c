"""The OpenAPI document: FastAPI's own, with the problem details that every operation can answer."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from user_service.web.responses import PROBLEM_TYPE

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
REASONS: Final = {
    "400": "The request is malformed",
    "401": "No valid credentials",
    "403": "The credentials do not allow this",
    "404": "There is no such user, or import",
    "409": "The user's state, another user's keys, or a request under the same key does not allow this",
    "410": "The request came before under this key; its answer was erased with the user",
    "412": "`If-Match` names another version",
    "413": "The body is too large",
    "415": "The content type is not supported",
    "422": "The request does not fit its schema; `errors` lists the faults, up to 100",
    "429": "The rate limit is used up; try again after `Retry-After` seconds",
    "503": "The database does not answer, or too much is asked at once; try again after `Retry-After` seconds",
}
# Credentials are checked before a request gets to FastAPI, in app.py.
CREDENTIALS: Final[dict[str, Any]] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
GUARDED: Final = "/api/v1"
EVENTS: Final = "/events"
GUARDED_STATUSES: Final = ("400", "401", "403", "422", "429", "503")
EVENT_STATUSES: Final = ("400", "401", "403", "409", "413", "415", "422", "503")
CONFLICTING: Final = frozenset(
    {"create_user", "update_user", "upsert_user", "restore_user", "suspend_user", "activate_user", "update_own_user"}
)


def add_openapi(app: FastAPI) -> None:
    """Makes `app.openapi()` complete the document, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = complete(document)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def complete(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    schemas["Problem"] = PROBLEM
    document["components"]["securitySchemes"] = CREDENTIALS
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path == EVENTS or path.startswith(GUARDED):
                operation["security"] = [{name: []} for name in CREDENTIALS]
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = without_null(parameter["schema"])
            for status in statuses_of(path, operation):
                operation["responses"][status] = problem_response(status, operation["responses"].get(status))
    return document


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that can be absent, and not null, which an address or a header can't say."""
    kept = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(kept) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | dict(kept[0])


def statuses_of(path: str, operation: dict[str, Any]) -> list[str]:
    operation["responses"].pop("422", None)
    if path == EVENTS:
        return list(EVENT_STATUSES)
    if not path.startswith(GUARDED):
        return ["422"] if operation.get("parameters") else []
    statuses = list(GUARDED_STATUSES)
    if "{user_id}" in path or "{import_id}" in path or path.endswith("/me"):
        statuses.append("404")
    if "requestBody" in operation:
        statuses += ["413", "415"]
    headers = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "header"}
    if "If-Match" in headers:
        statuses.append("412")
    if operation["operationId"] in CONFLICTING or IDEMPOTENCY_KEY in headers:
        statuses.append("409")
    if IDEMPOTENCY_KEY in headers and path.startswith("/api/v1/users") and "/batch/" not in path:
        statuses += [] if path.endswith("/imports") else ["410"]
    return statuses


def problem_response(status: str, own: dict[str, Any] | None) -> dict[str, Any]:
    """The response of a problem; `own` is the operation's, where its problem has further members."""
    schema: dict[str, Any] = {"$ref": "#/components/schemas/Problem"}
    description = REASONS[status]
    if own is not None:
        schema = {"anyOf": [own["content"]["application/json"]["schema"], schema]}
        description = f"{own['description']}; or: {description}"
    return {"description": description, "content": {PROBLEM_TYPE.decode(): {"schema": schema}}}
