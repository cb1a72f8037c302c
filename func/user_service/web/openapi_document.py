"""The OpenAPI document: FastAPI's own, completed by what the whole service has in common."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from user_service import __version__
from user_service.users.schemas import EXAMPLE
from user_service.web.change_reason import MAX_REASON_LENGTH, REASON_PATTERN
from user_service.web.openapi import JSON, PROBLEM, PROBLEM_JSON
from user_service.web.routes.events import EVENT
from user_service.web.routing import OPEN_QUERY

METHODS: Final = {"get", "put", "post", "delete", "patch"}
DESCRIPTION: Final = """The user directory of a microservice backend.

`docs/api.md` explains what a schema can't express, `docs/errors.md` every error code."""
TAGS: Final = {
    "users": "One user, and the list",
    "batches": "Up to 1,000 users in one request",
    "changes": "The feed of all committed changes",
    "imports": "Files of users of any length, and the export of all users",
    "privacy": "What is stored about one person, and its erasure",
    "audit": "Who changed or exported what, over all users",
    "events": "Batches as CloudEvents",
    "operations": "Probes, metrics, status and cache",
}
# app.py checks credentials before FastAPI gets the request.
SECURITY_SCHEMES: Final[dict[str, Any]] = {
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key of `API_KEYS` or `INTERNAL_API_KEY`",
    },
    "Bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token (JWT), or a key of `API_KEYS` or `INTERNAL_API_KEY`",
    },
}


def header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


HEADERS: Final = {
    "X-Request-ID": header(
        "The id of the request, which the log and problem details contain", "7d1f0c02a4b19e55d3c8f6aa"
    ),
    "traceparent": header("W3C trace context", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    "ETag": header("The version of the user, for `If-Match` and `If-None-Match`", '"3"'),
    "Cache-Control": header("How the response may be stored", "private, no-cache"),
    "Location": header("A relative reference to what was made", "users/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f"),
    "Link": header('The next page, with `rel="next"` (RFC 8288); absent on the last page', '<?cursor=c>; rel="next"'),
    "Idempotency-Replayed": header(
        "Present if an earlier request with this `Idempotency-Key` got this response", "true"
    ),
    "Retry-After": header("Seconds until a retry is useful", "1"),
    "RateLimit-Policy": header("The quota, for principals with a rate limit", '"default";q=100;w=60'),
    "RateLimit": header("What is left of the quota", '"default";r=63;t=12'),
}
CHANGE_REASON: Final[dict[str, Any]] = {
    "name": "X-Change-Reason",
    "in": "header",
    "required": False,
    "description": "Why, for the audit, without personal data; UTF-8 is accepted too",
    "schema": {"type": "string", "maxLength": MAX_REASON_LENGTH, "pattern": REASON_PATTERN},
    "example": "ticket 4711",
}
WITH_ETAG: Final = "#/components/schemas/UserRead"
UNCACHED: Final = "#/components/schemas/FeedPageRead"
WITH_LINK: Final = tuple(f"#/components/schemas/{name}" for name in ("UserPage", "ChangePage", "AuditPage"))


def add_openapi(app: FastAPI) -> None:
    """Replaces `app.openapi` by a function that makes the document, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = make_document(app.routes)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def make_document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    document = get_openapi(title="User Service", version=__version__, description=DESCRIPTION, routes=routes)
    # Relative to the document itself, so it is right behind any prefix.
    document["servers"] = [{"url": ".", "description": "The service that returned this document"}]
    document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    components = document["components"]
    schemas = components["schemas"]
    schemas["Problem"] = PROBLEM
    if "/events" in document["paths"]:
        schemas["CloudEvent"] = EVENT
    if "UserRead" in schemas:
        # FastAPI leaves out what is null in an example.
        schemas["UserRead"]["examples"] = [EXAMPLE]
        schemas["SelectedUser"] = select_user(schemas["UserRead"])
        schemas["UserPage"]["properties"]["items"]["items"] = {"anyOf": [refer("UserRead"), refer("SelectedUser")]}
    for schema in schemas.values():
        refer_to_items(schema, schemas)
    components["securitySchemes"] = SECURITY_SCHEMES
    components["headers"] = HEADERS
    used: set[str] = set()
    for path, path_item in document["paths"].items():
        for method in METHODS & path_item.keys():
            operation = path_item[method]
            if takes_reason(path, method):
                operation.setdefault("parameters", []).append(CHANGE_REASON)
            complete_operation(operation)
            used |= set(operation["tags"])
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    return document


def takes_reason(path: str, method: str) -> bool:
    """Whether the audit notes a request. RequestContext reads the header, so no route declares it."""
    is_export = path.endswith("/export")
    return path.startswith("/api/v1/users") and (method != "get" or is_export) and not path.endswith("/find")


def refer(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def select_user(user: dict[str, Any]) -> dict[str, Any]:
    """The schema of a user with the fields of the parameter `fields`, of which `id` is always one."""
    description = "The requested fields of a user"
    changed = {"title": "SelectedUser", "description": description, "required": ["id"], "additionalProperties": False}
    return {**{name: value for name, value in user.items() if name != "examples"}, **changed}


def complete_operation(operation: dict[str, Any]) -> None:
    parameters = operation.get("parameters", ())
    needs_credentials = "401" in operation["responses"]
    operation["security"] = [{name: []} for name in SECURITY_SCHEMES] if needs_credentials else []
    operation.pop(OPEN_QUERY, None)
    for parameter in parameters:
        parameter["schema"] = without_null(parameter["schema"])
    has_key = any(parameter["name"] == "Idempotency-Key" for parameter in parameters)
    for status, response in operation["responses"].items():
        if status >= "400":
            join_problem(response.get("content", {}))
        names = response_headers(status, response, has_key=has_key, is_limited=needs_credentials)
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def refer_to_items(schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Replaces the schema of a batch's items by a reference: pydantic repeats what it does not validate."""
    items = schema.get("properties", {}).get("items", {})
    name = items.get("items", {}).get("title")
    if name in schemas:
        items["items"] = refer(name)


def response_headers(status: str, response: dict[str, Any], *, has_key: bool, is_limited: bool) -> list[str]:
    """The names of the headers that a response may have."""
    schema = response.get("content", {}).get(JSON, {}).get("schema", {}).get("$ref")
    found = ["X-Request-ID", "traceparent"]
    if is_limited:
        found += ["RateLimit-Policy", "RateLimit"]
    if status in {"409", "429", "503"}:
        found.append("Retry-After")
    if schema == WITH_ETAG or status == "304":
        found += ["ETag", "Cache-Control"]
    if schema in WITH_LINK:
        found += ["Link", "Cache-Control"]
    if schema == UNCACHED:
        found.append("Cache-Control")
    if status == "201" or (status == "202" and schema is not None):
        found.append("Location")
    if has_key and status < "300":
        found.append("Idempotency-Replayed")
    return found


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
