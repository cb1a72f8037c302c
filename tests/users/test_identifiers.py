"""Who has an e-mail address, an alias, a username or an external id: what frees it, and what a conflict is called."""

import json
from typing import Any

import pytest

from support.api import USERS, make_user, unique_email, user_url
from support.batch_service import BatchService, creation, outcomes
from support.leftovers import INDEX
from user_service.encryption.blind_index import EMAIL, EXTERNAL_ID, USERNAME

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]
HELD: dict[str, Any] = {
    "email": "ada@example.org",
    "aliases": ["ada@example.com", "countess@example.net"],
    "username": "Ada",
    "external_id": "crm-1",
}
# What another user asks for, the error, and the field that it is about.
ASKED = {
    "email": ({"email": "ADA@example.org"}, "email_taken", "email"),
    "email that is an alias": ({"email": "ada@EXAMPLE.com"}, "email_taken", "email"),
    "alias": ({"aliases": ["new@example.org", "Countess@example.net"]}, "email_taken", "aliases"),
    "alias that is an e-mail": ({"aliases": ["ada@example.org"]}, "email_taken", "aliases"),
    "username": ({"username": " ＡＤＡ "}, "username_taken", "username"),
    "external_id": ({"external_id": "crm-1"}, "external_id_taken", "external_id"),
}
asked = pytest.mark.parametrize(("fields", "code", "field"), ASKED.values(), ids=ASKED)


async def rows(service: BatchService) -> set[tuple[int, bytes, str]]:
    found = await service.database.fetch("SELECT kind, index, user_id FROM identifiers")
    return {(row["kind"], row["index"], str(row["user_id"])) for row in found}


def expected_rows(*users: dict[str, Any]) -> set[tuple[int, bytes, str]]:
    found = set()
    for user in users:
        found |= {(EMAIL, INDEX.email(email), user["id"]) for email in (user["email"], *user["aliases"])}
        if user["username"] is not None:
            found.add((USERNAME, INDEX.username(user["username"]), user["id"]))
        if user["external_id"] is not None:
            found.add((EXTERNAL_ID, user["external_id"].encode(), user["id"]))
    return found


async def expect_conflict(response: Any, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (409, code), response.text


@asked
async def test_a_create_is_refused_by_the_kind_of_what_is_taken(
    service: BatchService, fields: dict[str, Any], code: str, field: str
) -> None:
    await make_user(service.client, **HELD)

    await expect_conflict(await service.client.post(USERS, json={"email": unique_email(), **fields}), code)
    for many in (1, 60):
        items = [creation() for _ in range(many)] + [creation(**fields)]
        for mode, on_conflict in (("partial", "fail"), ("atomic", "fail")):
            response = await service.batch("create", items, mode=mode, on_conflict=on_conflict, dry_run=True)
            error = response.json()["errors"][0] if mode == "atomic" else response.json()["items"][-1]["error"]
            assert error["code"] == code
            if mode == "partial":
                assert error["pointer"] == f"/items/{many}/data/{field}"


@asked
async def test_a_change_is_refused_by_the_kind_of_what_is_taken(
    service: BatchService, fields: dict[str, Any], code: str, field: str
) -> None:
    await make_user(service.client, **HELD)
    other = await make_user(service.client, external_id="other", username="other", aliases=["o@example.com"])
    before = await rows(service)

    await expect_conflict(await service.client.patch(user_url(other), json=fields), code)
    batch = await service.batch("update", [{"id": other["id"], "data": {"given_name": "Eve", **fields}}])
    assert batch.json()["items"][0]["error"]["code"] == code
    assert batch.json()["items"][0]["error"]["pointer"] == f"/items/0/data/{field}"
    if "external_id" not in fields:
        body = {"email": other["email"], **fields}
        await expect_conflict(await service.client.put(f"{USERS}/by-external-id/other", json=body), code)
        new = {"email": unique_email(), **fields}
        await expect_conflict(await service.client.put(f"{USERS}/by-external-id/new", json=new), code)
    assert await service.user(other["id"]) == other
    assert await rows(service) == before


@asked
async def test_a_restore_is_refused_by_the_kind_of_what_was_reused(
    service: BatchService, fields: dict[str, Any], code: str, field: str
) -> None:
    user = await make_user(service.client, **HELD)
    await service.client.delete(user_url(user))
    other = await make_user(service.client, **fields)

    await expect_conflict(await service.client.post(user_url(user, "/restore")), code)
    assert outcomes(await service.batch("restore", [{"id": user["id"]}])) == [code]
    assert await rows(service) == expected_rows(other)
    assert field in fields


@pytest.mark.parametrize("on_conflict", ["fail", "skip", "update"])
async def test_a_username_or_an_alias_that_is_taken_does_not_make_the_same_user(
    service: BatchService, on_conflict: str
) -> None:
    """Who is the same user is said by the id, the external id and the e-mail address."""
    holder = await make_user(service.client, **HELD)
    items = [
        creation(username="ada"),
        creation(aliases=["ada@example.org"]),
        {"data": {"email": "ada@example.com", "given_name": "By alias"}},
        {"data": {"email": "ADA@example.org", "given_name": "Ada"}},
        {"data": {"email": "ada@example.org", "external_id": "crm-1", "family_name": "King"}},
    ]

    found = [outcomes(await service.batch("create", [item], on_conflict=on_conflict))[0] for item in items]

    same = {"fail": "email_taken", "skip": "skipped", "update": "updated"}[on_conflict]
    by_alias = {"fail": "email_taken", "skip": "skipped", "update": "email_taken"}[on_conflict]
    assert found == ["username_taken", "email_taken", by_alias, same, same]
    assert await rows(service) == expected_rows(holder)


@pytest.mark.parametrize("on_conflict", ["fail", "skip", "update"])
async def test_an_import_names_the_field_that_is_taken(service: BatchService, on_conflict: str) -> None:
    await make_user(service.client, **HELD)
    records = [{"email": unique_email(), **fields} for fields in (ASKED["username"][0], ASKED["alias"][0])]
    content = "".join(json.dumps(record) + "\n" for record in records)

    response = await service.client.post(
        f"{USERS}/imports?on_conflict={on_conflict}", content=content, headers={"Content-Type": "application/x-ndjson"}
    )

    errors = (await service.client.get(f"{USERS}/imports/{response.json()['id']}/errors")).text.splitlines()
    found = [(error["code"], error["field"]) for error in map(json.loads, errors)]
    assert found == [("username_taken", "username"), ("email_taken", "aliases")]


async def test_what_a_user_holds_is_free_when_it_is_deleted_and_taken_again_when_it_is_restored(
    service: BatchService,
) -> None:
    user = await make_user(service.client, **HELD)
    assert await rows(service) == expected_rows(user)

    await service.client.delete(user_url(user))
    assert await rows(service) == set()
    again = await make_user(service.client, **HELD)
    await service.client.delete(user_url(again))

    assert (await service.client.post(user_url(user, "/restore"))).status_code == 200
    assert await rows(service) == expected_rows(user)
    await expect_conflict(await service.client.post(user_url(again, "/restore")), "email_taken")


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("how", ["erase", "purge"])
async def test_what_a_user_held_is_gone_after_erasure_and_purge(service: BatchService, how: str, deleted: bool) -> None:
    user = await make_user(service.client, **HELD, phone="+442071838750")
    if deleted:
        await service.client.delete(user_url(user))
    if how == "erase":
        assert (await service.client.post(user_url(user, "/erase"))).status_code == 204
    else:
        assert (await service.client.delete(user_url(user), params={"purge": "true"})).status_code == 204

    assert await rows(service) == set()
    assert await service.count("user_terms") == 0
    await make_user(service.client, **HELD)


async def test_an_alias_can_become_the_email_in_one_change(service: BatchService) -> None:
    user = await make_user(service.client, **HELD, email_verified=True)

    alone = await service.client.patch(user_url(user), json={"email": "ada@example.com"})
    assert (alone.status_code, alone.json()["errors"][0]["pointer"]) == (422, "/aliases")
    patch = {"email": "ada@example.com", "aliases": ["ada@example.org"]}
    changed = (await service.client.patch(user_url(user), json=patch)).json()

    assert (changed["email"], changed["aliases"], changed["email_verified"]) == (*patch.values(), False)
    assert await rows(service) == expected_rows(changed)
    cleared = (await service.client.patch(user_url(user), json={"aliases": None, "username": None})).json()
    assert (cleared["aliases"], cleared["username"]) == ([], None)
    assert await rows(service) == expected_rows(cleared)


async def test_identifiers_are_passed_on_within_a_batch(service: BatchService) -> None:
    names = ["one", "two", "three"]
    users = [await make_user(service.client, username=name, aliases=[f"{name}@example.com"]) for name in names]

    def turned(shift: int) -> list[dict[str, Any]]:
        turn = names[shift:] + names[:shift]
        return [
            {"id": user["id"], "data": {"username": name, "aliases": [f"{name}@example.com"]}}
            for user, name in zip(users, turn, strict=True)
        ]

    for shift in (1, 0, 2):
        assert outcomes(await service.batch("update", turned(shift))) == ["updated"] * 3
        shown = [await service.user(user["id"]) for user in users]
        assert [user["username"] for user in shown] == names[shift:] + names[:shift]
        assert await rows(service) == expected_rows(*shown)


async def test_who_is_refused_keeps_what_another_one_asks_for(service: BatchService) -> None:
    """The first of a chain can't have what it asks for, so none of the chain gets anything."""
    outsider = await make_user(service.client, username="taken")
    users = [await make_user(service.client, username=f"u{number}") for number in range(3)]
    items = [
        {"id": user["id"], "data": {"username": name, "aliases": [unique_email()], "given_name": "New"}}
        for user, name in zip(users, ["taken", "u0", "u1"], strict=True)
    ]

    assert outcomes(await service.batch("update", items)) == ["username_taken"] * 3
    assert [await service.user(user["id"]) for user in users] == users
    assert await rows(service) == expected_rows(outsider, *users)


async def test_two_of_a_batch_that_ask_for_the_same_are_duplicates(service: BatchService) -> None:
    items = [
        creation(username="ada"),
        creation(username="ＡＤＡ"),
        creation(email="x@example.org"),
        creation(aliases=["X@example.org"]),
    ]

    found = await service.batch("create", items)
    assert outcomes(found) == ["created", "duplicate_in_batch", "created", "duplicate_in_batch"]


async def test_every_filter_finds_the_user_deleted_or_not(service: BatchService) -> None:
    user = await make_user(service.client, **HELD, phone="+44 (20) 7183-87.50")
    same_phone = await make_user(service.client, phone="+442071838750")
    assert user["phone"] == same_phone["phone"] == "+442071838750"
    filters = (
        *({"email": email} for email in ("ADA@example.org", "countess@example.net")),
        *({"username": name} for name in ("ada", "ＡＤＡ ")),
        {"external_id": "crm-1"},
        {"username": "ada", "email": "ada@example.com", "phone": "+44 20 7183 8750"},
    )
    phones = ({"phone": "+442071838750"}, {"phone": "+44-20-71838750"}, {"phone": " 44 (20) 71838750"})

    async def ids(**params: str) -> list[str]:
        response = await service.client.get(USERS, params=params)
        assert response.status_code == 200, response.text
        return [item["id"] for item in response.json()["items"]]

    for params in filters:
        assert await ids(**params) == [user["id"]]
        assert await ids(**params, include="deleted") == [user["id"]]
    for params in phones:
        assert await ids(**params) == [user["id"], same_phone["id"]]
    await service.client.delete(user_url(user))
    for params in filters:
        assert await ids(**params) == []
        assert await ids(**params, include="deleted") == [user["id"]]
    for params in phones:
        assert await ids(**params) == [same_phone["id"]]
        assert await ids(**params, include="deleted") == [user["id"], same_phone["id"]]
    assert await ids(username="nobody") == await ids(phone="+4930123") == []


async def test_the_audit_trail_names_the_fields_and_no_value(service: BatchService) -> None:
    user = await make_user(service.client, **HELD)
    patch = {"aliases": ["a@example.com"], "username": "Eda", "phone": "+4930123"}
    await service.client.patch(user_url(user), json=patch)

    first, second = (await service.client.get(user_url(user, "/audit"))).json()["items"]
    assert {"email", "aliases", "username", "external_id"} <= set(first["changed"])
    assert set(second["changed"]) == {"aliases", "username", "phone"}
    assert "phone" not in first["changed"]
