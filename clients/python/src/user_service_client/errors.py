"""The errors. Their text has status, code and request id, and no value of the request.

UserServiceError
├── ConnectionFailed        no response: connection, time-out, or cut off; `__cause__` says which
├── UnexpectedResponse      a response that is not one of this service: of a proxy, or damaged
├── InvalidEvent            verify_event: not an event of this service, or not signed by it
└── ServiceError            a problem document (RFC 9457), one class for each `code` of docs/errors.md that a
    │                       caller can act on, else the class of its status
    ├── BadRequest 400      InvalidCursor
    ├── Unauthenticated 401, Forbidden 403
    ├── NotFound 404        UserNotFound
    ├── Conflict 409        EmailTaken, UsernameTaken, ExternalIdTaken, IdTaken, InvalidTransition,
    │                       DuplicateInBatch, BatchRefused, IdempotencyInProgress, ImportInProgress
    ├── Gone 410            CursorGone, AnswerErased
    ├── VersionMismatch 412, PayloadTooLarge 413, UnsupportedMediaType 415
    ├── Unprocessable 422   ValidationFailed, IdempotencyKeyReused, ImportDiffers
    ├── RateLimited 429
    └── Unavailable 503     DatabaseUnavailable, Overloaded, RequestTimedOut, Contended, ShuttingDown
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from user_service_client.models import ItemResult

TRANSIENT_STATUSES = frozenset({408, 429, 502, 503, 504})


class FieldError(NamedTuple):
    """One fault of a request. `pointer` is a JSON pointer into the body, or `?name`, `path:name`, `header:name`."""

    pointer: str
    code: str
    detail: str


class UserServiceError(Exception):
    """`is_transient`: the same request may succeed later. `results`: what a batch of several requests did before."""

    is_transient = False
    retry_after_seconds: float | None = None
    results: Sequence[ItemResult] = ()


class ConnectionFailed(UserServiceError):
    """No response, or half of one. A write may have been applied."""

    def __init__(self, message: str, *, is_transient: bool = True) -> None:
        super().__init__(message)
        self.is_transient = is_transient


class UnexpectedResponse(UserServiceError):
    """A response that no version of this service sends."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"The response {status} is not one of the User Service: {reason}")
        self.status = status
        # A success that can't be read, as from a damaged connection: the repeated request gets the first response.
        self.is_transient = status < 300 or status in TRANSIENT_STATUSES


class InvalidEvent(UserServiceError):
    """Not a CloudEvent of this service, or its signature is missing or wrong."""


class ServiceError(UserServiceError):
    """The service refused a request. Decide on the class or on `code`; `detail` is for people."""

    code: str = ""
    is_always_transient: ClassVar[bool] = False

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem["code"])
        self.detail = str(problem.get("detail", ""))
        self.request_id = str(problem.get("request_id", ""))
        self.errors = tuple(
            FieldError(str(error.get("pointer", "")), str(error["code"]), str(error.get("detail", "")))
            for error in problem.get("errors", ())
        )
        self.problem = problem
        self.is_transient = self.is_always_transient or status in TRANSIENT_STATUSES
        faults = "".join(f"; {error.pointer} {error.code}" for error in self.errors[:5])
        super().__init__(f"{status} {self.code}{faults} (request {self.request_id})")


class BadRequest(ServiceError):
    """400"""


class InvalidCursor(BadRequest):
    code = "invalid_cursor"


class Unauthenticated(ServiceError):
    code = "unauthenticated"


class Forbidden(ServiceError):
    code = "forbidden"


class NotFound(ServiceError):
    """404"""

    code = "not_found"


class UserNotFound(NotFound):
    code = "user_not_found"


class Conflict(ServiceError):
    """409"""

    code = "conflict"


class EmailTaken(Conflict):
    code = "email_taken"


class UsernameTaken(Conflict):
    code = "username_taken"


class ExternalIdTaken(Conflict):
    code = "external_id_taken"


class IdTaken(Conflict):
    code = "id_taken"


class InvalidTransition(Conflict):
    code = "invalid_transition"


class DuplicateInBatch(Conflict):
    code = "duplicate_in_batch"


class BatchRefused(Conflict):
    """An atomic batch was not applied; `results` has the items that failed."""

    code = "batch_refused"


class IdempotencyInProgress(Conflict):
    code = "idempotency_in_progress"
    is_always_transient = True


class ImportInProgress(Conflict):
    """The service still reads the connection of an earlier try, or of another client."""

    code = "import_in_progress"
    is_always_transient = True


class Gone(ServiceError):
    """410"""


class CursorGone(Gone):
    """The changes after the cursor are not kept any more: read the list anew."""

    code = "cursor_gone"


class AnswerErased(Gone):
    """The write was applied before; its user has been erased or purged since."""

    code = "answer_erased"


class VersionMismatch(ServiceError):
    code = "version_mismatch"


class PayloadTooLarge(ServiceError):
    code = "payload_too_large"


class UnsupportedMediaType(ServiceError):
    code = "unsupported_media_type"


class Unprocessable(ServiceError):
    """422"""


class ValidationFailed(Unprocessable):
    """`errors` has the fields."""

    code = "validation_failed"


class IdempotencyKeyReused(Unprocessable):
    code = "idempotency_key_reused"


class ImportDiffers(Unprocessable):
    code = "import_differs"


class RateLimited(ServiceError):
    code = "rate_limited"


class Unavailable(ServiceError):
    """503"""

    code = "unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class Overloaded(Unavailable):
    code = "overloaded"


class RequestTimedOut(Unavailable):
    code = "request_timed_out"


class Contended(Unavailable):
    code = "contended"


class ShuttingDown(Unavailable):
    code = "shutting_down"


def list_classes(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in list_classes(child))]


BY_CODE = {kind.code: kind for kind in list_classes(ServiceError) if "code" in vars(kind) and kind.code}
BY_STATUS: dict[int, type[ServiceError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: VersionMismatch,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    422: Unprocessable,
    429: RateLimited,
    503: Unavailable,
}


def make_error(status: int, problem: Mapping[str, Any]) -> ServiceError:
    """The error of a problem document. Raises KeyError, TypeError, AttributeError if it is none."""
    kind = BY_CODE.get(problem["code"]) or BY_STATUS.get(status, ServiceError)
    return kind(status, problem)
