"""What pydantic finds wrong, as faults that name their place in the document and never quote a value."""

from collections.abc import Sequence
from typing import Any, Final

from user_service.errors import FieldError


def field_error(fault: Any) -> FieldError:
    """One of FastAPI's errors, whose place starts with the part of the request."""
    part, *place = fault["loc"]
    if part == "body":
        return fault_at(pointer_of(place), fault)
    sign = {"query": "?", "path": "path:", "header": "header:"}[part]
    return fault_at(sign + ".".join(map(str, place)), fault)


def document_error(fault: Any, *, prefix: str = "") -> FieldError:
    """One of pydantic's errors about a document that stands at `prefix` of a larger one."""
    return fault_at(prefix + pointer_of(fault["loc"]), fault)


def fault_at(pointer: str, fault: Any) -> FieldError:
    """The message stands, since none of ours or pydantic's quotes the input here."""
    return FieldError(pointer, fault["type"], MESSAGES.get(fault["type"], fault["msg"]))


MESSAGES: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this schema",
    "string_pattern_mismatch": "does not have the form asked for",
}


def pointer_of(place: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901). No schema has unions, whose members pydantic would name in it."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)
