"""Checks of the URL that the fast path and the API share; without a framework."""

from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl, unquote_to_bytes

from user_service.errors import BadRequest, FieldError, ValidationFailed


def check_encoding(url: bytes) -> None:
    """Raises BadRequest for a path or query that is not UTF-8; servers and frameworks would replace the bytes."""
    if b"%" not in url and url.isascii():
        return
    try:
        unquote_to_bytes(url).decode()
    except UnicodeDecodeError:
        raise BadRequest("The URL is not UTF-8 after percent-decoding.") from None


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """The parameters in their order, decoded as forms are."""
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True)
    return [(name, value) for name, _, value in (part.partition("=") for part in text.split("&") if part)]


def check_names(names: Sequence[str], is_known: Callable[[str], bool]) -> None:
    """Raises ValidationFailed for query parameters that are unknown or repeated."""
    distinct = dict.fromkeys(names)
    faults = [
        FieldError(f"?{name}", "unknown_parameter", "this operation has no such query parameter")
        for name in distinct
        if not is_known(name)
    ]
    faults += [
        FieldError(f"?{name}", "repeated_parameter", "must not be repeated")
        for name in distinct
        if is_known(name) and names.count(name) > 1
    ]
    if faults:
        raise ValidationFailed(errors=faults)
