"""Errors of the library as errors of the service, and the other way round. Responses show them in SCIM's form."""

import re
from typing import Final

from pydantic import ValidationError
from scim2_models import Error, SCIMException
from scim2_server.errors import MethodNotAllowedException

from user_service.errors import ServiceError, VersionMismatch
from user_service.scim.error_documents import ScimError, scim_detail, scim_status, scim_type

# The library's messages quote values of filters and paths, which may be personal.
QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
QUOTED_VALUE: Final = re.compile(r"\bvalue '.*?' is not valid")


def to_service_error(error: SCIMException) -> ServiceError:
    """The service's error. That of a stale version is one of those which stored responses keep."""
    detail = describe_fault(error.__cause__) if isinstance(error.__cause__, ValidationError) else str(error)
    detail = QUOTED_VALUE.sub("the value is not valid", QUOTED.sub('"..."', detail))
    if error.status == VersionMismatch.status:
        return VersionMismatch(detail)
    allowed = ", ".join(error.allowed) if isinstance(error, MethodNotAllowedException) else None
    return ScimError(error.status, detail, error.scim_type or None, allowed=allowed)


def describe_fault(error: ValidationError) -> str:
    """Pydantic's own text quotes the input."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"]))) for fault in error.errors()
    )


def to_scim_error(error: ServiceError) -> Error:
    """The library's error of one operation of a bulk request."""
    return Error(status=scim_status(error), scim_type=scim_type(error), detail=scim_detail(error))
