"""Errors of pydantic as field errors, which point at a place in the document and never quote a value."""

from collections.abc import Sequence
from typing import Any, Final

from user_service.errors import FieldError


def field_error(fault: Any) -> FieldError:
    """An error of FastAPI, whose location starts with the part of the request."""
    part, *location = fault["loc"]
    if part == "body":
        return make_field_error(json_pointer(location), fault)
    prefix = {"query": "?", "path": "path:", "header": "header:"}[part]
    return make_field_error(prefix + ".".join(map(str, location)), fault)


def document_error(fault: Any, *, prefix: str = "") -> FieldError:
    """An error of pydantic about a document that is at `prefix` of a larger one."""
    return make_field_error(prefix + json_pointer(fault["loc"]), fault)


def make_field_error(pointer: str, fault: Any) -> FieldError:
    """The message is kept: no message of this project, or of pydantic for these schemas, quotes the input."""
    return FieldError(pointer, fault["type"], MESSAGES.get(fault["type"], fault["msg"]))


MESSAGES: Final = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this schema",
    "bool_type": "must be true or false",
    "dict_type": "must be a JSON object",
    "int_type": "must be a whole number",
    "list_type": "must be a JSON array",
    "model_attributes_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "string_type": "must be a string",
    "uuid_parsing": "must be a UUID, as 0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f",
}


def json_pointer(location: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901). No schema has unions, whose members would be part of a location."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in location)
