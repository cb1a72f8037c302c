"""New users as identity providers send them: attributes in their own spelling, with values of their own types.

Such a document is taken as it is. The models of the library, which take longer for it than the rest of the request,
would return the same one; a test compares the two. Any other document is theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from scim2_server.service import is_json_media_type

from user_service.scim.mapping import CORE, ENTERPRISE, NEVER_KEPT


def is_text(value: Any) -> bool:
    return type(value) is str


def is_lower(value: Any) -> bool:
    """A type of an entry: the library writes known ones in lower case."""
    return type(value) is str and value == value.lower()


def is_flag(value: Any) -> bool:
    return type(value) is bool


def is_schemas(value: Any) -> bool:
    return type(value) is list and CORE in value and set(map(str, value)) <= KNOWN_SCHEMAS


def is_empty(value: Any) -> bool:
    """Of attributes that only the service says something of."""
    return type(value) is list and not value


def is_object(value: Any, parts: Mapping[str, Callable[[Any], bool]]) -> bool:
    if type(value) is not dict or not value:
        return False
    return all(name in parts and parts[name](part) for name, part in value.items())


def is_name(value: Any) -> bool:
    return is_object(value, NAME)


def is_manager(value: Any) -> bool:
    return is_object(value, MANAGER)


def is_enterprise(value: Any) -> bool:
    return is_object(value, ENTERPRISE_USER)


def is_entries(value: Any) -> bool:
    """A list of e-mail addresses or phone numbers, at most one of which is primary."""
    if type(value) is not list or not value or not all(is_object(entry, ENTRY) for entry in value):
        return False
    return sum(entry.get("primary") is True for entry in value) <= 1


KNOWN_SCHEMAS: Final = frozenset({CORE, ENTERPRISE})
NAME: Final = dict.fromkeys(
    ("formatted", "familyName", "givenName", "middleName", "honorificPrefix", "honorificSuffix"), is_text
)
ENTRY: Final = {"value": is_text, "display": is_text, "type": is_lower, "primary": is_flag}
MANAGER: Final = {"value": is_text}
ENTERPRISE_USER: Final = {
    **dict.fromkeys(("employeeNumber", "costCenter", "organization", "division", "department"), is_text),
    "manager": is_manager,
}
TEXTS: Final = (
    *("userName", "externalId", "displayName", "nickName", "title", "userType", "preferredLanguage", "locale"),
    *("timezone", "password"),
)
ATTRIBUTES: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(TEXTS, is_text),
    "schemas": is_schemas,
    "groups": is_empty,
    "active": is_flag,
    "name": is_name,
    "emails": is_entries,
    "phoneNumbers": is_entries,
    ENTERPRISE: is_enterprise,
}


def read_plain(body: bytes, content_type: str | None) -> dict[str, Any] | None:
    """The document of a new user; None for one that the library has to read."""
    if not is_json_media_type(content_type):
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not is_object(document, ATTRIBUTES) or not document.get("userName") or "schemas" not in document:
        return None
    return {name: value for name, value in document.items() if name not in NEVER_KEPT}
