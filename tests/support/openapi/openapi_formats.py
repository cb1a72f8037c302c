"""Hooks of schemathesis: values of the formats that JSON Schema does not know, and keys that are used once."""

from typing import Any
from uuid import uuid4

import openapi_checks  # noqa: F401  schemathesis loads one module of hooks
import schemathesis
from hypothesis import strategies as st

from user_service.values.timezones import zones

IDEMPOTENCY_KEY = "Idempotency-Key"

schemathesis.openapi.format("timezone", st.sampled_from(sorted(zones())))

schemathesis.openapi.format("email-domain", st.emails().map(lambda email: email.rpartition("@")[2]))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """One credential, and a new key with every request: under a known one, the right answer depends on the past."""
    if case.headers is None:
        return
    case.headers.pop("Authorization", None)
    if 1 <= len(str(case.headers.get(IDEMPOTENCY_KEY, ""))) <= 255:
        case.headers[IDEMPOTENCY_KEY] = uuid4().hex
