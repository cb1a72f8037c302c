"""What every address must keep to, for the read lane and the API alike; nothing here needs a framework."""

from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

from user_service.errors import BadRequest, FieldError, ValidationFailed


def check_encoding(sent: bytes) -> None:
    """Raises BadRequest for a path or query that is not UTF-8, which servers and frameworks mend in silence."""
    if b"%" not in sent and sent.isascii():
        return
    try:
        unquote_to_bytes(sent).decode()
    except UnicodeDecodeError:
        raise BadRequest("The address is not UTF-8 after percent-decoding.") from None


def check_names(names: Sequence[str], is_known: Callable[[str], bool]) -> None:
    """Raises ValidationFailed for query parameters that are unknown or given twice."""
    once = dict.fromkeys(names)
    faults = [
        FieldError(f"?{name}", "unknown_parameter", "there is no such query parameter here")
        for name in once
        if not is_known(name)
    ]
    faults += [
        FieldError(f"?{name}", "repeated_parameter", "may be given once only")
        for name in once
        if is_known(name) and names.count(name) > 1
    ]
    if faults:
        raise ValidationFailed(errors=faults)
