"""`If-Match` and `If-None-Match` as conditions on a user's version (RFC 9110, 8.8.3 and 13.1); without a framework.

The ETag of a user is its version: `"3"`. `If-Match` compares strongly, so `W/"3"` matches no version; `If-None-Match`
compares weakly, so `W/"3"` is version 3.
"""

import re
from collections.abc import Mapping
from typing import Final

from user_service.errors import InvalidHeader
from user_service.users.version_conditions import Condition, Versions

IF_MATCH: Final = b"if-match"
IF_NONE_MATCH: Final = b"if-none-match"
ENTITY_TAG: Final = rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
# A list may have empty elements (RFC 9110, 5.6.1).
TAG_LIST: Final = re.compile(rb"[ \t,]*(?:" + ENTITY_TAG + rb"(?:[ \t]*,[ \t,]*" + ENTITY_TAG + rb")*[ \t,]*)?")
TAGS: Final = re.compile(rb'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
VERSION: Final = re.compile(rb"[1-9][0-9]{0,9}")
# The regular expression of a header in the OpenAPI document.
TAG_LIST_PATTERN: Final = r'^(?:\*|(?:(?:W/)?"[!#-~]*"(?:, ?(?:W/)?"[!#-~]*")*)?)$'


def read_condition(headers: Mapping[bytes, bytes]) -> Condition | None:
    """The condition of a request that changes something; None without one. Raises InvalidHeader."""
    if_match, if_none_match = headers.get(IF_MATCH), headers.get(IF_NONE_MATCH)
    if if_match is None and if_none_match is None:
        return None
    return Condition(
        required=parse_versions(if_match, "If-Match", weak=False) if if_match is not None else None,
        excluded=parse_versions(if_none_match, "If-None-Match", weak=True) if if_none_match is not None else None,
    )


def parse_versions(field: bytes, name: str, *, weak: bool) -> Versions:
    """The versions that a field value names; weak tags are included with `weak`. Raises InvalidHeader."""
    text = field.strip()
    if text == b"*":
        return Versions(every=True)
    if not TAG_LIST.fullmatch(text):
        raise InvalidHeader(f'{name} must be ETags of this user, such as "3" or "3", "4", or *.')
    return find_versions(text, weak=weak)


def find_versions(text: bytes, *, weak: bool) -> Versions:
    tags = TAGS.findall(text)
    return Versions(frozenset(int(tag) for mark, tag in tags if (weak or not mark) and VERSION.fullmatch(tag)))


def is_unchanged(headers: Mapping[bytes, bytes], version: int) -> bool:
    """Whether a read of this version is answered with 304. Raises VersionMismatch and InvalidHeader for `If-Match`."""
    if (if_match := headers.get(IF_MATCH)) is not None:
        Condition(required=parse_versions(if_match, "If-Match", weak=False)).check(version)
    field = headers.get(IF_NONE_MATCH)
    return field is not None and matches_etag(field, version)


def matches_etag(field: bytes, version: int) -> bool:
    """Whether the `If-None-Match` of a read names a version; a field value that is malformed names none."""
    text = field.strip()
    return text == b"*" or bool(TAG_LIST.fullmatch(text) and version in find_versions(text, weak=True))
