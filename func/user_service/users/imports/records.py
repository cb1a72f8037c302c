"""Records of an import: the `data` of a user to create, or a BadRecord for one that can't be read."""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from user_service.users.imports.lines import MAX_LINE_BYTES
from user_service.users.validation import nesting_depth


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that can't be read. It fails alone; the records after it are still read. `field` is a known name."""

    code: str
    detail: str
    field: str | None = None


Record = dict[str, Any] | BadRecord
# A record, with the line of the file that it begins in, from 1.
NumberedRecord = tuple[int, Record]
# orjson reads 1,024 levels and writes 254; no valid user has more than a few.
MAX_LEVELS: Final = 254
RECORD_TOO_LONG: Final = BadRecord("record_too_long", f"The record is longer than {MAX_LINE_BYTES} bytes.")


def parse_object(text: bytes | str, place: str) -> Record:
    """The JSON object in a text; `place` is what holds it, for the message."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return BadRecord("malformed_json", f"The {place} is not JSON: {error.msg} at character {error.pos}.")
    if not isinstance(document, dict):
        return BadRecord("not_an_object", f"The {place} is not a JSON object.")
    content = text.encode() if isinstance(text, str) else text
    if content.count(b"{") + content.count(b"[") > MAX_LEVELS and nesting_depth(document) > MAX_LEVELS:
        return BadRecord("too_deep", f"The {place} is nested deeper than {MAX_LEVELS} levels.")
    return document
