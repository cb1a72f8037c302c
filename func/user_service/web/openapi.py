"""The problem details that the routes declare for the OpenAPI document."""

from typing import Any, Final

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
        "code": {"type": "string", "description": "Stable; the response lists those of its status"},
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
                        "description": "JSON pointer (RFC 6901) into the body; or `?name`, `path:name`, `header:name`",
                    },
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
    "examples": [
        {
            "type": "urn:user-service:problem:user_not_found",
            "title": "No such user",
            "status": 404,
            "detail": "No such user",
            "code": "user_not_found",
            "request_id": "7d1f0c02a4b19e55d3c8f6aa",
            "errors": [],
        }
    ],
}
DESCRIPTIONS: Final = {
    400: "The request is malformed",
    401: "No valid credentials",
    403: "The credentials do not allow this",
    404: "No such user or import",
    409: "In conflict with the user's status, another user, or a request with the same key",
    410: "The response to the first request with this key was erased with its user; or the cursor is too old",
    412: "The version does not meet `If-Match` or `If-None-Match`",
    413: "The body is too large",
    415: "The content type is not supported",
    422: "The request does not fit its schema; `errors` lists up to 100 errors",
    429: "The rate limit is exceeded; retry after `Retry-After` seconds",
    503: "The database is unavailable, or the service is overloaded; retry after `Retry-After` seconds",
}

CODES: Final[dict[int, tuple[str, ...]]] = {
    400: (
        "bad_request",
        "malformed_json",
        "malformed_request",
        "request_incomplete",
        "invalid_cursor",
        "invalid_header",
        "invalid_event",
        "event_id_reused",
    ),
    401: ("unauthenticated",),
    403: ("forbidden",),
    404: ("not_found", "user_not_found"),
    409: (
        "conflict",
        "email_taken",
        "username_taken",
        "external_id_taken",
        "id_taken",
        "invalid_transition",
        "duplicate_in_batch",
        "batch_refused",
        "idempotency_in_progress",
        "import_in_progress",
        "event_in_progress",
    ),
    410: ("answer_erased", "cursor_gone"),
    412: ("version_mismatch",),
    413: ("payload_too_large",),
    415: ("unsupported_media_type",),
    422: ("validation_failed", "idempotency_key_reused", "import_differs"),
    429: ("rate_limited",),
    503: (
        "unavailable",
        "database_unavailable",
        "key_not_loaded",
        "issuer_unavailable",
        "overloaded",
        "request_timed_out",
        "contended",
        "shutting_down",
    ),
}


def describe(status: int) -> str:
    """What an error status means, and the codes of its problem details."""
    return f"{DESCRIPTIONS[status]}. Codes: {', '.join(f'`{code}`' for code in CODES[status])}"


def problems(*statuses: int) -> Responses:
    """FastAPI's `responses=` for operations that may return problem details with these statuses."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": describe(status), "content": {PROBLEM_JSON: {"schema": schema}}} for status in statuses
    }


# Errors of every route below /api/v1: app.py checks credentials and rate limits, StrictRoute checks the URL.
COMMON_PROBLEMS: Final = problems(400, 401, 403, 422, 429, 503)
