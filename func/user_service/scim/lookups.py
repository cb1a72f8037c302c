"""The search that identity providers make before everything else: `GET /Users?filter=userName eq "ada"`.

It is read and answered without the models of the library, which take longer for it than the rest of the request. Any
other search is the library's; a test compares the two.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from scim2_server.service import SEARCH_REQUEST_PARAMETERS

from user_service.scim.filters import KEYS
from user_service.scim.models import MAX_PAGE
from user_service.users.conditions import Named

LIST_SCHEMA: Final = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
# One comparison with a text that has no escapes.
EQUALITY: Final = re.compile(
    r'(?P<attribute>userName|externalId|id|emails|emails\.value) eq "(?P<value>[^"\\\x00-\x1f]*)"',
    re.IGNORECASE | re.ASCII,
)
WHOLE_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")
OTHER_PARAMETERS: Final = frozenset(SEARCH_REQUEST_PARAMETERS) - {"filter", "startIndex", "count"}


class Lookup(NamedTuple):
    """The identifier to look up, and the page of the result: `size` users from the place `start` on, from 1."""

    name: Named
    start: int
    size: int


def parse_lookup(query: Mapping[str, str]) -> Lookup | None:
    """The look-up that a query asks for; None for any other search."""
    match = EQUALITY.fullmatch(query.get("filter", ""))
    numbers = query.get("startIndex", "1"), query.get("count", str(MAX_PAGE))
    if match is None or not OTHER_PARAMETERS.isdisjoint(query) or not all(map(WHOLE_NUMBER.fullmatch, numbers)):
        return None
    attribute, value = match.group("attribute", "value")
    start, count = map(int, numbers)
    return Lookup(Named(KEYS[attribute.lower()], value), start, min(count, MAX_PAGE))
