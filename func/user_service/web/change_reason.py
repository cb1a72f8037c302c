"""`X-Change-Reason`: why a request changes something, for the audit trail; without a framework."""

from typing import Final

from user_service.errors import InvalidHeader

CHANGE_REASON: Final = b"x-change-reason"
MAX_REASON_LENGTH: Final = 200
# The regular expression in the OpenAPI document: what is printable in ISO 8859-1.
REASON_PATTERN: Final = r"^[ -~\u00a1-\u00ac\u00ae-\u00ff]*$"


def parse_reason(field: bytes | None) -> str | None:
    """The reason in a header, in UTF-8, or else in ISO 8859-1, as browsers send it. Raises InvalidHeader."""
    if field is None:
        return None
    try:
        text = field.decode()
    except UnicodeDecodeError:
        text = field.decode("latin-1")
    reason = text.strip(" \t")
    if len(reason) > MAX_REASON_LENGTH or not reason.isprintable():
        raise InvalidHeader(
            f"X-Change-Reason must be up to {MAX_REASON_LENGTH} characters, without invisible and control characters."
        )
    return reason or None
