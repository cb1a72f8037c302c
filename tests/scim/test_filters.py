"""Filters and pages: what the service finds is what the library's own evaluation of the filter selects."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.live_server import LiveServer
from support.scim import BASE, METADATA, USERS, ScimClient, expect_scim_error, new_user

pytestmark = pytest.mark.distributed

NAMES = ("ada", "Grace", "straße", "kurt@example.org", "ÉMILE", "x y", 'quo"te')
SCIM_ONLY = {"title": "Countess", METADATA: {"metadata": [{"name": "plan", "value": "pro"}]}}


class Directory:
    """A service with a few users, and these as its clients read them."""

    def __init__(self, scim: ScimClient, users: list[dict[str, Any]]) -> None:
        self.scim = scim
        self.users = users

    def found(self, text: str) -> list[str]:
        """The ids of all users that a filter finds, over several pages."""
        page = self.scim.search(text, count=5)
        ids = [user["id"] for user in page["Resources"]]
        while len(ids) < page["totalResults"]:
            more = self.scim.search(text, count=5, startIndex=len(ids) + 1)
            assert more["totalResults"] == page["totalResults"]
            assert more["Resources"]
            ids += [user["id"] for user in more["Resources"]]
        assert len(ids) == len(set(ids)) == page["totalResults"]
        return sorted(ids)

    def expected(self, text: str) -> list[str]:
        """The ids of the users that the library's evaluation selects."""
        from scim2_models import ScimFilter

        from user_service.scim.models import MATCHING, PROVIDER, UserResource

        with PROVIDER, MATCHING:
            bound: Any = ScimFilter[UserResource](text)
            return sorted(user["id"] for user in self.users if bound.match(UserResource.model_validate(user)))


@pytest.fixture(scope="module")
def directory(scim_server: LiveServer) -> Iterator[Directory]:
    with ScimClient(scim_server.port) as scim, scim_server.client() as client:
        for place, name in enumerate(NAMES):
            emails = [
                {"value": f"work-{place}@Example.org", "type": "work", "primary": True},
                {"value": f"home-{place}@example.com", "type": "home"},
            ]
            others = {"externalId": f"okta-{place}"} if place % 2 else {}
            scim.make(userName=name, emails=emails, active=place % 3 != 0, **others, **(SCIM_ONLY if place > 3 else {}))
        for place in range(6):
            body = {
                "email": f"plain-{place}@example.org",
                "external_id": f"Okta-{place}" if place % 2 else None,
                "status": ("active", "pending", "suspended")[place % 3],
            }
            client.post("/api/v1/users", json=body).raise_for_status()
        deleted = scim.make(userName="deleted", externalId="okta-deleted")
        scim.delete(f"{USERS}/{deleted['id']}").raise_for_status()
        users = scim.search(count=100)["Resources"]
        scim.patched(users[0], {"op": "replace", "path": "displayName", "value": "changed"})
        yield Directory(scim, scim.search(count=100)["Resources"])


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def cased(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from([text, text.upper(), text.lower(), text.title()])


def times(users: list[dict[str, Any]], name: str) -> st.SearchStrategy[str]:
    moments = [datetime.fromisoformat(user["meta"][name]) for user in users]
    near = [moment + timedelta(microseconds=step) for moment in moments for step in (-1000, -1, 0, 1, 1000)]
    far = [datetime(1960, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)]
    return st.sampled_from(near + far).map(lambda moment: quoted(moment.isoformat().replace("+00:00", "Z")))


def leaves(users: list[dict[str, Any]]) -> tuple[st.SearchStrategy[str], st.SearchStrategy[str]]:
    """Comparisons that a search by index can make, and those of them that name users."""

    def values(found: list[str], *others: str) -> st.SearchStrategy[str]:
        return st.sampled_from([*found, *others]).flatmap(cased).map(quoted)

    names = {
        "userName": values([user["userName"] for user in users], "nobody", "nobody@example.org", "deleted"),
        "id": values([user["id"] for user in users], "nobody", "01890000-0000-7000-8000-000000000000"),
        "externalId": values([user["externalId"] for user in users if "externalId" in user], "okta-deleted"),
        "emails.value": values([email["value"] for user in users for email in user["emails"]], "none"),
        "emails": values([email["value"] for user in users for email in user["emails"]]),
    }
    named = st.one_of(
        *(value.map(f"{name} eq {{}}".format) for name, value in names.items()),
        names["emails.value"].map("emails[value eq {}]".format),
        names["userName"].map("urn:ietf:params:scim:schemas:core:2.0:User:userName eq {}".format),
        names["userName"].map("USERNAME EQ {}".format),
    )
    others = st.one_of(
        *(value.map(f"{name} ne {{}}".format) for name, value in names.items()),
        st.sampled_from(["okta-", "Okta-", "okta-1", "x", "o"]).map('externalId sw "{}"'.format),
        st.sampled_from(["active eq true", "active eq false", "active ne true", "active ne false"]),
        st.sampled_from(
            [f"{name} pr" for name in ("userName", "externalId", "id", "emails", "active", "meta.created")]
        ),
        st.sampled_from(['meta.resourceType eq "User"', 'meta.resourceType eq "Group"']),
        *(
            st.tuples(st.sampled_from(["gt", "ge", "lt", "le", "eq", "ne"]), times(users, name)).map(
                lambda pair, name=name: f"meta.{name} {pair[0]} {pair[1]}"  # type: ignore[misc]
            )
            for name in ("created", "lastModified")
        ),
    )
    return st.one_of(named, others), named


def combined(leaf: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("({0[0]} and {0[1]})".format),
            st.tuples(inner, inner).map("({0[0]} or {0[1]})".format),
            inner.map("not ({})".format),
        ),
        max_leaves=6,
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_filter_finds_what_the_library_selects(directory: Directory, data: st.DataObject) -> None:
    text = data.draw(combined(leaves(directory.users)[0]))

    assert directory.found(text) == directory.expected(text), text


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_filter_that_names_users_may_say_anything_else(directory: Directory, data: st.DataObject) -> None:
    other = st.sampled_from(
        [
            'title eq "countess"',
            "title pr",
            'displayName co "hang"',
            'emails[type eq "work" and value co "work"]',
            'emails.type eq "home"',
            'userName co "a"',
            f'{METADATA}:metadata[name eq "plan" and value eq "pro"]',
            'name.familyName ew "x"',
        ]
    )
    leaf, named = leaves(directory.users)
    narrow = st.lists(named, min_size=1, max_size=3).map(" or ".join)
    text = data.draw(st.tuples(narrow, combined(st.one_of(leaf, other))).map("({0[0]}) and {0[1]}".format))

    assert directory.found(text) == directory.expected(text), text


@pytest.mark.parametrize(
    "text",
    [
        'title eq "Countess"',
        'userName co "a"',
        'userName sw "a"',
        'emails co "example"',
        'externalId co "okta"',
        'name.familyName eq "King"',
        'userName eq "ada" or title eq "Countess"',
        'not (title eq "Countess")',
        "active eq true and displayName pr",
        'emails[type eq "work"]',
        'not (userName eq "ada" and title pr)',
        'meta.version eq "1"',
    ],
)
def test_what_would_take_a_read_of_every_user_is_refused_with_a_sentence(directory: Directory, text: str) -> None:
    response = directory.scim.get(USERS, params={"filter": text})

    detail = expect_scim_error(response, 400, "invalidFilter")
    assert "can't be searched for" in detail
    assert "userName" in detail


@pytest.mark.parametrize(
    "text",
    [
        "userName",
        "userName eq",
        'userName eq "a" and',
        'nothing eq "a"',
        "active gt true",
        'userName xx "a"',
        "(",
        "not",
    ],
)
def test_what_is_no_filter_is_refused(directory: Directory, text: str) -> None:
    expect_scim_error(directory.scim.get(USERS, params={"filter": text}), 400, "invalidFilter")


def test_a_filter_has_a_bounded_length(directory: Directory) -> None:
    for text in (" or ".join(f'userName eq "u{number}"' for number in range(201)), f'userName eq "{"x" * 9000}"'):
        body = {"schemas": [], "filter": text}
        expect_scim_error(directory.scim.post(f"{USERS}/.search", json=body), 400, "invalidFilter")


@pytest.mark.parametrize("name", ["filter", "Filter"])
@pytest.mark.parametrize("text", ["a" * 32_000 + "].", "a[" * 16_000 + "].", '"' + '\\"' * 16_000 + "]."])
def test_a_long_filter_is_refused_for_its_length_before_it_is_read(directory: Directory, name: str, text: str) -> None:
    response = directory.scim.post(f"{USERS}/.search", json={"schemas": [], name: text})

    assert "longer than 8192 characters" in expect_scim_error(response, 400, "invalidFilter")


@pytest.mark.parametrize(
    "path", [f"{USERS}/.search", f"{BASE}/.search", f"{USERS}/.search/", f"{BASE}/.search/", f"{USERS}//.search"]
)
def test_a_search_may_be_a_post(directory: Directory, path: str) -> None:
    body = {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:SearchRequest"],
        "filter": 'userName eq "ada"',
        "attributes": ["userName"],
        "count": 10,
    }

    found = directory.scim.post(path, json=body).json()

    assert [user["userName"] for user in found["Resources"]] == ["ada"]
    assert found["Resources"][0].keys() == {"schemas", "id", "userName"}


@pytest.mark.parametrize("path", [f"{USERS}/.search", f"{USERS}/.search/"])
def test_a_search_is_no_change_whose_response_is_stored(directory: Directory, path: str) -> None:
    body, key = {"filter": 'userName eq "ada"'}, {"Idempotency-Key": f"search {path}"}

    responses = [directory.scim.post(path, json=body, headers=key) for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 200]
    assert "idempotency-replayed" not in responses[1].headers


@pytest.mark.parametrize("name", ["filter", "Filter"])
def test_a_selected_value_is_found_whatever_the_case_of_the_key(directory: Directory, name: str) -> None:
    written = (
        'emails[type eq "home"].value eq "home-0@example.com"',
        'emails[type eq "[x]"].value eq "home-0@example.com"',
    )

    found = [directory.scim.post(f"{USERS}/.search", json={name: text}).json()["totalResults"] for text in written]

    assert found == [1, 0]


@pytest.mark.parametrize(
    "text", [None, "active eq true", 'userName eq "ada" or userName eq "grace" or externalId sw "o"']
)
@pytest.mark.parametrize(
    ("sort_by", "order"),
    [(None, "ascending"), ("meta.created", "descending"), ("meta.lastModified", "ascending"), ("id", "descending")],
)
def test_cursors_lead_through_all_pages(
    directory: Directory, text: str | None, sort_by: str | None, order: str
) -> None:
    parameters: dict[str, Any] = {"count": 3, **({"sortBy": sort_by, "sortOrder": order} if sort_by else {})}

    pages, cursor = [], ""
    while cursor is not None:
        page = directory.scim.search(text, cursor=cursor, **parameters)
        assert "startIndex" not in page
        pages.append([user["id"] for user in page["Resources"]])
        cursor = page.get("nextCursor")

    by_index = directory.scim.search(text, **{**parameters, "count": 100})["Resources"]
    assert [user_id for page in pages for user_id in page] == [user["id"] for user in by_index]
    assert all(len(page) == 3 for page in pages[:-1])


def test_a_cursor_is_valid_for_its_query_alone(directory: Directory) -> None:
    cursor = directory.scim.search("active eq true", cursor="", count=2)["nextCursor"]

    for parameters, scim_type in (
        ({"filter": "active eq false", "count": 2}, "invalidCursor"),
        ({"filter": "active eq true", "count": 3}, "invalidCount"),
        ({"filter": "active eq true", "count": 2, "sortBy": "id"}, "invalidCursor"),
    ):
        response = directory.scim.get(USERS, params={**parameters, "cursor": cursor})
        expect_scim_error(response, 400, scim_type)
    response = directory.scim.get(
        USERS, params={"cursor": f"{cursor[:-4]}AAAA", "filter": "active eq true", "count": 2}
    )
    expect_scim_error(response, 400, "invalidCursor")


def test_a_cursor_is_valid_for_an_hour(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    def issue(age: float) -> str:
        with monkeypatch.context() as patched:
            patched.setattr("scim2_server.cursor.time", SimpleNamespace(time=lambda: time.time() - age))
            return str(directory.scim.search(cursor="", count=2)["nextCursor"])

    assert directory.scim.search(cursor=issue(3_500), count=2)["Resources"]
    response = directory.scim.get(USERS, params={"cursor": issue(3_700), "count": 2})
    expect_scim_error(response, 400, "expiredCursor")


def test_an_order_by_time_is_kept_and_others_are_passed_over(directory: Directory) -> None:
    def read_times(name: str, order: str) -> list[str]:
        found = directory.scim.search(sortBy=f"meta.{name}", sortOrder=order, count=100)["Resources"]
        return [user["meta"][name] for user in found]

    for name in ("created", "lastModified"):
        ascending = read_times(name, "ascending")
        assert ascending == sorted(ascending)
        assert read_times(name, "descending") == ascending[::-1]
    passed_over = directory.scim.search(sortBy="name.familyName", count=100)["Resources"]
    assert passed_over == directory.scim.search(count=100)["Resources"]
    expect_scim_error(directory.scim.get(USERS, params={"sortBy": "nothing"}), 400, "invalidPath")


def test_pages_may_be_empty_and_beyond_the_end(directory: Directory) -> None:
    total = len(directory.users)

    for parameters, shown in (
        ({"count": 0}, 0),
        ({"startIndex": total + 1}, 0),
        ({"startIndex": total, "count": 5}, 1),
        ({"startIndex": 0, "count": 2}, 2),
        ({"startIndex": -3, "count": 2}, 2),
        ({"count": -1}, 0),
        ({"count": 100_000}, total),
    ):
        page = directory.scim.search(**parameters)
        assert (page["totalResults"], page["itemsPerPage"]) == (total, shown), parameters
    for start in (2**63, 10**30):
        assert directory.scim.search(startIndex=start)["Resources"] == []


def test_a_page_holds_two_hundred_users_at_most(scim: ScimClient, directory: Directory) -> None:
    operations = [
        {"method": "POST", "path": "/Users", "bulkId": str(number), "data": new_user()} for number in range(201)
    ]
    body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"], "Operations": operations}
    outcomes = scim.post(f"{BASE}/Bulk", json=body).json()["Operations"]

    page = scim.search(count=1000)

    assert (page["itemsPerPage"], page["totalResults"]) == (200, len(directory.users) + 201)
    deletions = [{"method": "DELETE", "path": f"/Users/{outcome['location'][-36:]}"} for outcome in outcomes]
    scim.post(f"{BASE}/Bulk", json={**body, "Operations": deletions}).raise_for_status()
