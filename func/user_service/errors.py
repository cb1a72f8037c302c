"""The errors, with their HTTP status and stable code (RFC 9457).

ServiceError
├── BadRequest 400            MalformedJson, RequestIncomplete, InvalidCursor, InvalidHeader, InvalidEvent,
│                             EventIdReused
├── Unauthenticated 401
├── Forbidden 403
├── NotFound 404              UserNotFound
├── Conflict 409              EmailTaken, UsernameTaken, ExternalIdTaken, IdTaken, InvalidTransition,
│                             DuplicateInBatch, IdempotencyInProgress, EventInProgress
├── ResponseErased 410, CursorGone 410
├── VersionMismatch 412
├── PayloadTooLarge 413
├── UnsupportedMediaType 415
├── ValidationFailed 422
├── IdempotencyKeyReused 422
├── RateLimited 429
└── Unavailable 503           DatabaseUnavailable, KeyNotLoaded, Contended, IssuerUnavailable, Overloaded,
                              RequestTimedOut, ShuttingDown
ConfigurationError            the service refuses to start; never sent to a client
CommandFailed                 a command failed; never sent to a client
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

# The lowest status of a response that is an error of the service.
SERVER_ERROR: Final = 500
# Exit statuses of the command line.
EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 2
EXIT_INTERRUPTED: Final = 130


class FieldError(NamedTuple):
    """One fault of a request.

    `pointer` is a JSON pointer (RFC 6901) into the body, or `?name` for a query parameter.
    """

    pointer: str
    code: str
    detail: str


class ServiceError(Exception):
    """An error with a status and a stable code. `detail` is written for the caller and holds no personal value."""

    status = 500
    code = "internal_error"
    title = "Internal error"
    retry_after_seconds: int | None = None

    def __init__(self, detail: str | None = None, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = tuple(errors)


class BadRequest(ServiceError):
    status, code, title = 400, "bad_request", "Bad request"


class MalformedJson(BadRequest):
    code, title = "malformed_json", "The body is not JSON"


class RequestIncomplete(BadRequest):
    """The client has gone, or was too slow. The response reaches no one; the log and the metrics have its status."""

    code, title = "request_incomplete", "The connection ended before the body of the request did"


class InvalidCursor(BadRequest):
    code, title = "invalid_cursor", "The cursor does not belong to this list"


class InvalidHeader(BadRequest):
    code, title = "invalid_header", "A request header is malformed"


class InvalidEvent(BadRequest):
    code, title = "invalid_event", "Not a CloudEvent that this service accepts"


class EventIdReused(BadRequest):
    code, title = "event_id_reused", "Another event of this source has used this id"


class Unauthenticated(ServiceError):
    status, code, title = 401, "unauthenticated", "No valid credentials"


class Forbidden(ServiceError):
    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(ServiceError):
    status, code, title = 404, "not_found", "Not found"


class UserNotFound(NotFound):
    code, title = "user_not_found", "No such user"


class Conflict(ServiceError):
    status, code, title = 409, "conflict", "Conflict"


class EmailTaken(Conflict):
    code, title = "email_taken", "Another user has this e-mail address"


class AliasTaken(EmailTaken):
    """The address that another user has is one of the aliases."""

    title = "Another user has the address of an alias"


class UsernameTaken(Conflict):
    code, title = "username_taken", "Another user has this username"


class ExternalIdTaken(Conflict):
    code, title = "external_id_taken", "Another user has this external_id"


class IdTaken(Conflict):
    code, title = "id_taken", "Another user has, or had, this id"


class InvalidTransition(Conflict):
    code, title = "invalid_transition", "The user's status does not allow this"


class DuplicateInBatch(Conflict):
    """`first` is the index of the earlier item, among the items given to the service."""

    code, title = "duplicate_in_batch", "An earlier item of the batch names the same user"

    def __init__(self, detail: str | None = None, *, first: int) -> None:
        super().__init__(detail)
        self.first = first


class IdempotencyInProgress(Conflict):
    code, title = "idempotency_in_progress", "A request with this Idempotency-Key is still being processed"
    retry_after_seconds = 1


class EventInProgress(Conflict):
    code, title = "event_in_progress", "This event is being processed elsewhere"


class ResponseErased(ServiceError):
    status, code, title = 410, "answer_erased", "The first response was erased with its user"


class CursorGone(ServiceError):
    status, code, title = 410, "cursor_gone", "What follows the cursor is not known any more; read the list anew"


class VersionMismatch(ServiceError):
    status, code, title = 412, "version_mismatch", "The version does not meet the condition of the request"


class PayloadTooLarge(ServiceError):
    status, code, title = 413, "payload_too_large", "The body is too large"


class UnsupportedMediaType(ServiceError):
    status, code, title = 415, "unsupported_media_type", "The body's content type is not supported"


class ValidationFailed(ServiceError):
    status, code, title = 422, "validation_failed", "The request does not match its schema"


class RateLimited(ServiceError):
    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class IdempotencyKeyReused(ServiceError):
    status, code, title = 422, "idempotency_key_reused", "This Idempotency-Key was used with another request"


class Unavailable(ServiceError):
    status, code, title = 503, "unavailable", "Temporarily unavailable"
    retry_after_seconds = 1


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "The database does not answer"


class KeyNotLoaded(Unavailable):
    code, title = "key_not_loaded", "The data is encrypted with a key that this replica does not have"


class IssuerUnavailable(Unavailable):
    code, title = "issuer_unavailable", "The keys of the token's issuer can't be fetched"


class Overloaded(Unavailable):
    code, title = "overloaded", "Too many requests at once"


class RequestTimedOut(Unavailable):
    code, title = "request_timed_out", "The request exceeded its time limit"


class Contended(Unavailable):
    code, title = "contended", "Too many requests change the same users at once"


class ShuttingDown(Unavailable):
    code, title = "shutting_down", "This replica is stopping"


class ConfigurationError(Exception):
    """The service refuses to start; the message names each fault and its remedy."""


class CommandFailed(Exception):
    """A command could not do its work; the message says why and what to do."""

    exit_status = EXIT_FAILED
