"""Media types as headers name them (RFC 9110, 8.3.1)."""

import re
from functools import lru_cache
from typing import Final, NamedTuple

# Of the files of users that are imported and exported, by the name of the format.
USER_FILES: Final = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
PARAMETER: Final = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)')
ESCAPED: Final = re.compile(r"\\(.)")
# US-ASCII is a part of UTF-8.
UTF8_NAMES: Final = frozenset({"utf-8", "utf8", "us-ascii"})


class MediaType(NamedTuple):
    """The type in lower case, and whether its text is UTF-8. Other parameters than `charset` have no meaning here."""

    name: str
    is_utf8: bool


@lru_cache(maxsize=128)
def parse_media_type(content_type: str) -> MediaType:
    """The media type of a `Content-Type`; text without a charset counts as UTF-8."""
    name, _, parameters = content_type.partition(";")
    pairs = PARAMETER.findall(f";{parameters}")
    charsets = {unquote(value).lower() for parameter, value in pairs if parameter.lower() == "charset"}
    return MediaType(name.strip().lower(), charsets - {""} <= UTF8_NAMES)


def unquote(value: str) -> str:
    """A parameter's value without quotes around it. Single quotes are no quotes in HTTP; clients write them."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = ESCAPED.sub(r"\1", value[1:-1])
    return value.strip("'")
