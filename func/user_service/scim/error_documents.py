"""Errors of the service in SCIM's form (RFC 7644, 3.12). This module imports no library, so that every error has it."""

from collections.abc import Mapping
from typing import Any, Final

from user_service.errors import ServiceError
from user_service.settings import SCIM_PATH

SCIM_MEDIA_TYPE: Final = b"application/scim+json"
ERROR_SCHEMA: Final = "urn:ietf:params:scim:api:messages:2.0:Error"
# By code of the service; an error of the library has its own.
SCIM_TYPES: Final[Mapping[str, str]] = {
    "email_taken": "uniqueness",
    "username_taken": "uniqueness",
    "external_id_taken": "uniqueness",
    "duplicate_in_batch": "uniqueness",
    "validation_failed": "invalidValue",
    "malformed_json": "invalidSyntax",
}
# SCIM has no 422.
UNPROCESSABLE: Final = 422


class ScimError(ServiceError):
    """An error that SCIM's rules give, with its `scimType` (RFC 7644, 3.12), and the methods that a 405 names."""

    title = "The SCIM request was refused"

    def __init__(self, status: int, detail: str, scim_type: str | None = None, *, allowed: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.scim_type = scim_type
        self.allowed = allowed


def is_scim_path(path: str) -> bool:
    return path == SCIM_PATH or path.startswith(f"{SCIM_PATH}/")


def error_document(error: ServiceError) -> dict[str, Any]:
    document: dict[str, Any] = {"schemas": [ERROR_SCHEMA], "status": str(scim_status(error))}
    if (name := scim_type(error)) is not None:
        document["scimType"] = name
    return {**document, "detail": scim_detail(error)}


def scim_status(error: ServiceError) -> int:
    return 400 if error.status == UNPROCESSABLE else error.status


def scim_type(error: ServiceError) -> str | None:
    name = error.scim_type if isinstance(error, ScimError) else None
    return name or SCIM_TYPES.get(error.code)


def scim_detail(error: ServiceError) -> str:
    """The sentence of the error, or of each of its faults."""
    faults = [f"{fault.pointer.removeprefix('/')} {fault.detail}" for fault in error.errors]
    return "; ".join(faults) or error.detail
