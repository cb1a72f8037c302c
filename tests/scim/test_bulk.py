"""`/Bulk`: operations in sets, with references, limits and an outcome for each."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.application import running
from support.scim import BASE, ENTERPRISE, PATCH, USERS, ScimClient, expect_scim_error, new_user, unique_name
from support.settings import make_settings
from user_service.settings import Settings

pytestmark = pytest.mark.distributed

SCHEMA = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
MISSING = "/Users/01890000-0000-7000-8000-000000000000"


def operation(method: str, path: str, data: Any = None, **others: Any) -> dict[str, Any]:
    return {"method": method, "path": path, **({"data": data} if data is not None else {}), **others}


def creation(bulk_id: str, **attributes: Any) -> dict[str, Any]:
    return operation("POST", "/Users", new_user(**attributes), bulkId=bulk_id)


def patch(*operations: dict[str, Any]) -> dict[str, Any]:
    return {"schemas": [PATCH], "Operations": list(operations)}


def run(
    scim: ScimClient, *operations: dict[str, Any], path: str = f"{BASE}/Bulk", **options: Any
) -> list[dict[str, Any]]:
    body = {"schemas": [SCHEMA], "Operations": list(operations), **options}
    response = scim.post(path, json=body)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["Operations"]
    return found


def statuses(outcomes: list[dict[str, Any]]) -> list[str]:
    return [outcome["status"] for outcome in outcomes]


def test_each_method_has_its_effect_and_its_outcome(scim: ScimClient) -> None:
    changed, replaced, deleted = (scim.make() for _ in range(3))

    outcomes = run(
        scim,
        creation("a", displayName="A"),
        creation("b", displayName="B"),
        operation("PATCH", f"/Users/{changed['id']}", patch({"op": "replace", "path": "active", "value": "False"})),
        operation("PUT", f"/Users/{replaced['id']}", new_user(userName=replaced["userName"], title="Lady")),
        operation("DELETE", f"/Users/{deleted['id']}"),
        operation("DELETE", MISSING),
    )

    assert statuses(outcomes) == ["201", "201", "200", "200", "204", "404"]
    assert [outcome.get("bulkId") for outcome in outcomes[:2]] == ["a", "b"]
    created = scim.get(outcomes[0]["location"]).json()
    assert (created["displayName"], created["meta"]["version"]) == ("A", outcomes[0]["version"])
    assert scim.read(changed)["active"] is False
    assert scim.read(replaced)["title"] == "Lady"
    expect_scim_error(scim.get(f"{USERS}/{deleted['id']}"), 404)
    assert outcomes[5]["response"]["status"] == "404"
    assert outcomes[5]["location"].endswith(MISSING)


def test_operations_name_what_others_create(scim: ScimClient) -> None:
    outcomes = run(
        scim,
        creation("report", **{ENTERPRISE: {"manager": {"value": "bulkId:boss"}}}),
        creation("boss"),
        operation("PATCH", "/Users/bulkId:boss", patch({"op": "add", "path": "title", "value": "Boss"})),
        operation("PATCH", "/Users/bulkId:nobody", patch({"op": "add", "path": "title", "value": "x"})),
    )

    assert statuses(outcomes) == ["201", "201", "200", "409"]
    report, boss = (scim.get(outcome["location"]).json() for outcome in outcomes[:2])
    assert report[ENTERPRISE]["manager"]["value"] == boss["id"]
    assert boss["title"] == "Boss"


@pytest.mark.parametrize("path", [f"{BASE}/Bulk/", f"{BASE}//Bulk//"])
def test_slashes_around_its_name_do_not_matter(scim: ScimClient, path: str) -> None:
    deleted = scim.make()

    outcomes = run(
        scim,
        creation("a"),
        operation("DELETE", f"/Users/{deleted['id']}"),
        creation("b"),
        path=path,
    )

    assert statuses(outcomes) == ["201", "204", "201"]
    assert [scim.get(outcome["location"]).status_code for outcome in outcomes] == [200, 404, 200]
    large = json.dumps({"schemas": [SCHEMA], "Operations": [creation("c")]}) + " " * 2**19
    assert statuses(scim.post(path, content=large).json()["Operations"]) == ["201"]


def test_paths_are_keys_of_a_value(scim: ScimClient) -> None:
    user, home = scim.make(), unique_name()
    values = {'emails[type eq "home"].value': home, 'addresses[type eq "work"].locality': "London", "title": "Countess"}
    data = patch({"op": "add", "value": values})
    path, display = f"/Users/{user['id']}", f'emails[value eq "{home}"].display'

    outcomes = run(
        scim,
        operation("PATCH", path, data),
        {"Method": "PATCH", "PATH": path, "DATA": patch({"op": "add", "value": {display: "Home"}})},
    )

    assert statuses(outcomes) == ["200", "200"]
    shown = scim.read(user)
    assert {"value": home, "type": "home", "display": "Home"} in shown["emails"]
    assert (shown["title"], shown["addresses"]) == ("Countess", [{"locality": "London", "type": "work"}])


def test_a_failed_operation_leaves_the_others(scim: ScimClient) -> None:
    taken = scim.make()
    twice = unique_name()

    outcomes = run(
        scim,
        creation("a"),
        creation("b", userName=taken["userName"]),
        creation("c", userName=twice),
        creation("d", userName=twice),
        creation("e", emails=[{"value": "none"}]),
        operation("POST", "/Users", {"displayName": "no name"}, bulkId="f"),
        operation("POST", "/Groups", {"displayName": "engineers"}, bulkId="g"),
        creation("h"),
    )

    assert statuses(outcomes) == ["201", "409", "201", "409", "400", "400", "404", "201"]
    assert {outcome["response"]["scimType"] for outcome in outcomes if outcome["status"] == "409"} == {"uniqueness"}
    assert scim.names(f'userName eq "{twice}"') == [twice]


@pytest.mark.parametrize(("limit", "done"), [(-1, 2), (0, 2), (1, 2), (2, 4), (3, 6), (7, 6)])
def test_it_stops_after_so_many_errors_and_applies_nothing_beyond(scim: ScimClient, limit: int, done: int) -> None:
    taken = scim.make()["userName"]
    names = [unique_name() for _ in range(6)]
    sent = [creation(str(place), userName=taken if place % 2 else name) for place, name in enumerate(names)]

    outcomes = run(scim, *sent, failOnErrors=limit)

    assert statuses(outcomes) == ["201", "409"] * (done // 2)
    assert [bool(scim.names(f'userName eq "{name}"')) for name in names[::2]] == [
        place < done for place in range(0, 6, 2)
    ]


def test_two_operations_on_one_user_follow_each_other(scim: ScimClient) -> None:
    user = scim.make()
    path, version = f"/Users/{user['id']}", user["meta"]["version"]

    outcomes = run(
        scim,
        operation("PATCH", path, patch({"op": "add", "path": "title", "value": "first"})),
        operation("PATCH", path, patch({"op": "replace", "path": "title", "value": "second"})),
        operation("PATCH", path, patch({"op": "remove", "path": "title"}), version=version),
        operation("DELETE", path, version=version),
    )

    assert statuses(outcomes) == ["200", "200", "412", "412"]
    assert scim.read(user)["title"] == "second"


def test_a_name_that_another_user_shows_is_refused_in_a_set(scim: ScimClient, scim_server: Any) -> None:
    address = unique_name()
    with scim_server.client() as client:
        client.post("/api/v1/users", json={"email": address}).raise_for_status()

    outcomes = run(scim, creation("a"), creation("b", userName=address, emails=[{"value": unique_name()}]))

    assert statuses(outcomes) == ["201", "409"]


def test_errors_of_operations_do_not_quote_values(scim: ScimClient) -> None:
    secret, user = "ada.secret@example.org", scim.make()
    path = f"/Users/{user['id']}"

    outcomes = run(
        scim,
        operation("PATCH", path, patch({"op": "replace", "path": f'emails[value eq "{secret}"', "value": "x"})),
        operation("PATCH", path, patch({"op": "replace", "path": "active", "value": secret})),
        operation("PATCH", path, patch({"op": "replace", "path": "emails", "value": [secret]})),
        operation("POST", "/Users", new_user(active=secret), bulkId="a"),
        operation("POST", "/Users", new_user(emails=[{"value": f"{secret}@"}]), bulkId="b"),
    )

    assert statuses(outcomes) == ["400"] * 5
    assert secret not in json.dumps([outcome["response"] for outcome in outcomes])


def test_a_thousand_users_are_one_set(scim: ScimClient) -> None:
    outcomes = run(scim, *(creation(str(place)) for place in range(1000)))

    assert set(statuses(outcomes)) == {"201"}
    assert len({outcome["location"] for outcome in outcomes}) == 1000


def test_what_is_too_large_is_refused(scim: ScimClient) -> None:
    many = [operation("DELETE", MISSING) for _ in range(1001)]

    expect_scim_error(scim.post(f"{BASE}/Bulk", json={"schemas": [SCHEMA], "Operations": many}), 413)
    large = json.dumps({"schemas": [SCHEMA], "Operations": [creation("a", title="x" * 2**21)]})
    expect_scim_error(scim.post(f"{BASE}/Bulk", content=large), 413)
    change = {"op": "add", "path": "title", "value": "x"}
    expect_scim_error(scim.patch_user(scim.make(), *([change] * 101)), 413)
    patches = [operation("PATCH", MISSING, patch(*([change] * 4))) for _ in range(751)]
    expect_scim_error(scim.post(f"{BASE}/Bulk", json={"schemas": [SCHEMA], "Operations": patches}), 413)
    keys = {"op": "add", "value": {f"x[{place}": 0 for place in range(3001)}}
    keyed = {"schemas": [SCHEMA], "Operations": [operation("PATCH", MISSING, patch(keys))]}
    expect_scim_error(scim.post(f"{BASE}/Bulk", json=keyed), 413)
    expect_scim_error(scim.patch_user(scim.make(), keys), 413)
    twice = {"schemas": [PATCH], "operations": [], "Operations": [change] * 101}
    expect_scim_error(scim.patch(f"{USERS}/{scim.make()['id']}", json=twice), 413)


async def test_a_bulk_request_counts_as_one_per_hundred_operations(settings: Settings, tmp_path: Path) -> None:
    limited = make_settings(settings.database_url, tmp_path, scim=True, rate_limit_internal_max=4)
    body = {"schemas": [SCHEMA], "Operations": [operation("DELETE", MISSING) for _ in range(250)]}
    async with running(limited) as client:
        responses = [await client.post(f"{BASE}/Bulk", json=body) for _ in range(2)]

    assert responses[0].status_code == 200
    expect_scim_error(responses[1], 429)
