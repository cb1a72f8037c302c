"""What is answered without the library's models is what the library makes of it."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support.live_server import LiveServer
from support.scim import CORE, ENTERPRISE, USERS, ScimClient, new_user
from user_service.scim.lookups import parse_lookup
from user_service.scim.mapping import NEVER_KEPT
from user_service.scim.models import CONFIG, PROVIDER, USER_TYPE, DirectoryProvider
from user_service.scim.plain import read_plain
from user_service.scim.service import DirectoryService

JSON = "application/scim+json"
TEXT = st.text(max_size=8)
FLAG = st.booleans()
ANYTHING = st.one_of(
    TEXT, FLAG, st.none(), st.integers(0, 9), st.just([]), st.just({}), st.just("True"), st.just({"a": "b"})
)


def rarely(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value as it should be, and once in a while any other."""
    return st.integers(0, 19).flatmap(lambda number: ANYTHING if number == 0 else value)


def an_object(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={name: rarely(part) for name, part in parts.items()})


ENTRIES = st.lists(
    rarely(an_object(value=TEXT, type=st.sampled_from(["work", "home", "Work", "x"]), display=TEXT, primary=FLAG)),
    max_size=3,
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "schemas": rarely(st.sampled_from([[CORE], [CORE, ENTERPRISE], [ENTERPRISE], []])),
        "userName": rarely(st.text(min_size=1, max_size=8)),
    },
    optional={
        "externalId": rarely(TEXT),
        "displayName": rarely(TEXT),
        "title": rarely(TEXT),
        "password": rarely(TEXT),
        "locale": rarely(TEXT),
        "active": rarely(FLAG),
        "groups": rarely(st.just([])),
        "name": rarely(an_object(givenName=TEXT, familyName=TEXT, formatted=TEXT, other=TEXT)),
        "emails": rarely(ENTRIES),
        "phoneNumbers": rarely(ENTRIES),
        ENTERPRISE: rarely(
            an_object(department=TEXT, employeeNumber=TEXT, manager=st.one_of(an_object(value=TEXT), TEXT))
        ),
        "DISPLAYNAME": TEXT,
        "favouriteColour": TEXT,
    },
)
SERVICE = DirectoryService(PROVIDER, secret=b"a secret of the tests")


@settings(max_examples=400)
@given(document=DOCUMENTS)
def test_a_plain_document_is_what_the_library_makes_of_it(document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    plain = read_plain(body, JSON)
    if plain is None:
        return

    with PROVIDER:
        read = SERVICE.read_creation(USER_TYPE, body, JSON).model_dump(mode="json")

    assert plain == {name: value for name, value in read.items() if name not in NEVER_KEPT}


def test_what_okta_and_entra_send_is_plain() -> None:
    okta = {**new_user(), "groups": [], "password": "x", "active": True, "name": {"givenName": "A", "familyName": "B"}}
    entra = {**new_user(), ENTERPRISE: {"department": "x", "manager": {"value": "y"}}, "schemas": [CORE, ENTERPRISE]}

    for document in (okta, entra):
        assert read_plain(json.dumps(document).encode(), JSON) is not None
    assert isinstance(PROVIDER, DirectoryProvider)
    assert CONFIG.filter is not None


def test_a_look_up_is_answered_as_any_other_search_is(scim: ScimClient, scim_server: LiveServer) -> None:
    users = [scim.make(userName=name, externalId=f"x-{name}") for name in ("ada", "Grace", "kurt@example.org")]
    values = [value for user in users for value in (user["userName"].upper(), user["externalId"], user["id"])]
    values += [users[0]["emails"][0]["value"], "nobody", ""]
    for attribute in ("userName", "USERNAME", "externalId", "id", "emails", "emails.value"):
        for value in values:
            for page in ({}, {"startIndex": 1, "count": 100}, {"startIndex": 2}, {"count": 1}, {"count": 5000}):
                text = f'{attribute} eq "{value}"'
                assert (
                    parse_lookup({"filter": text, **{name: str(number) for name, number in page.items()}}) is not None
                )
                fast = scim.get(USERS, params={"filter": text, **page})
                slow = scim.get(USERS, params={"filter": f"({text})", **page})
                assert (fast.status_code, fast.json()) == (slow.status_code, slow.json()), text
