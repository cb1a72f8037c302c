"""Responses without a framework: those of the fast path, and problem details (RFC 9457)."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from user_service.errors import ServiceError
from user_service.scim.error_documents import SCIM_MEDIA_TYPE, ScimError, error_document

Headers = Sequence[tuple[bytes, bytes]]
PROBLEM_TYPE: Final = b"application/problem+json"


class RawResponse(NamedTuple):
    status: int
    headers: Headers
    body: bytes


def make_response(status: int, body: bytes, headers: Headers, media_type: bytes = b"application/json") -> RawResponse:
    """A response with a body, of the media type."""
    length = b"%d" % len(body)
    return RawResponse(status, [(b"content-type", media_type), (b"content-length", length), *headers], body)


def empty_response(result: object) -> RawResponse:
    """204, whatever the result is."""
    return RawResponse(204, (), b"")


def render_problem(
    error: ServiceError, request_id: str, *, extensions: Mapping[str, object] | None = None
) -> RawResponse:
    """The problem details of an error, with further members (RFC 9457, 3.2)."""
    document: dict[str, object] = {
        "type": f"urn:user-service:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        "errors": [fault._asdict() for fault in error.errors],
        **(extensions or {}),
    }
    return render_error(error, document, PROBLEM_TYPE)


def render_scim_error(error: ServiceError) -> RawResponse:
    """The error in SCIM's form (RFC 7644, 3.12)."""
    response = render_error(error, error_document(error), SCIM_MEDIA_TYPE)
    allowed = error.allowed if isinstance(error, ScimError) else None
    return response if allowed is None else response._replace(headers=[*response.headers, (b"allow", allowed.encode())])


def render_error(error: ServiceError, document: Mapping[str, Any], media_type: bytes) -> RawResponse:
    headers = [(b"content-type", media_type), (b"cache-control", b"no-store")]
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", str(error.retry_after_seconds).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = orjson.dumps(document)
    headers.append((b"content-length", str(len(body)).encode()))
    return RawResponse(int(document["status"]), headers, body)


def json_response(value: object, *, status: int = 200) -> RawResponse:
    body = orjson.dumps(value)
    headers = (
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
    )
    return RawResponse(status, headers, body)
