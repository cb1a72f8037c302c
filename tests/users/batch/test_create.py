from typing import Any

import pytest

from support.api import USERS
from support.batch_service import BatchService, creation, outcomes

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]


async def test_a_thousand_items_with_one_wrong_create_the_others(service: BatchService) -> None:
    items = [creation() for _ in range(1000)]
    items[500]["data"]["email"] = "not an address"

    response = await service.batch("create", items)

    assert response.status_code == 207
    assert response.json()["summary"] == {"total": 1000, "succeeded": 999, "failed": 1, "skipped": 0}
    assert outcomes(response) == ["created"] * 500 + ["validation_failed"] + ["created"] * 499
    assert [item["index"] for item in response.json()["items"]] == list(range(1000))
    assert response.json()["items"][500]["error"]["pointer"] == "/items/500/data/email"
    assert await service.count("users") == 999
    assert await service.count("user_changes WHERE type = 'created' AND version = 1") == 999


async def test_users_of_a_batch_are_those_of_single_requests(service: BatchService) -> None:
    fields = {
        "email": " Ada@EXAMPLE.org ",
        "external_id": "a-1",
        "given_name": "Ada",
        "locale": "en-GB",
        "preferences": {"theme": {"dark": True}},
        "metadata": {"plan": "pro", "seats": 3},
        "status": "pending",
    }
    response = await service.batch("create", [{"ref": "row-1", "data": fields}])
    single = await service.client.post(USERS, json={**fields, "email": " Eda@EXAMPLE.org ", "external_id": "a-2"})

    (item,) = response.json()["items"]
    ours, theirs = await service.user(item["id"]), single.json()
    own = {"id", "email", "external_id", "created_at", "updated_at"}
    assert item == {"index": 0, "ref": "row-1", "status": "created", "id": ours["id"], "version": 1}
    assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
    assert ours["email"] == "Ada@example.org"
    for query in ("q=ada", "metadata.plan=pro", "metadata.seats=3"):
        page = (await service.client.get(f"{USERS}?{query}")).json()["items"]
        assert [user["id"] for user in page] == [ours["id"], theirs["id"]]
    logged = await service.database.fetch(
        "SELECT changed, partition, status, actor FROM user_changes JOIN outbox USING (user_id, version)"
        " ORDER BY user_id"
    )
    assert logged[0]["changed"] == logged[1]["changed"]
    assert [row["partition"] for row in logged] == [int(user["id"][-1], 16) for user in (ours, theirs)]


async def test_the_later_of_two_spellings_fails_with_the_index_of_the_first(service: BatchService) -> None:
    items = [creation(), creation(email="Ada@Example.org"), creation(), creation(email=" ada@EXAMPLE.ORG")]

    response = await service.batch("create", items)

    assert outcomes(response) == ["created", "created", "created", "duplicate_in_batch"]
    assert "index 1" in response.json()["items"][3]["error"]["detail"]


async def test_an_external_id_twice_is_a_duplicate_past_an_invalid_item(service: BatchService) -> None:
    items = [creation(email="no"), creation(external_id="x"), creation(external_id="x"), creation(external_id="y")]

    response = await service.batch("create", items)

    assert outcomes(response) == ["validation_failed", "created", "duplicate_in_batch", "created"]
    assert "index 1" in response.json()["items"][2]["error"]["detail"]


async def test_every_kind_of_bad_item_is_reported_at_its_place(service: BatchService) -> None:
    await service.make(1, external_id="taken", email="taken@example.org")
    bad: list[tuple[Any, str, str]] = [
        (7, "validation_failed", "/items/0"),
        (None, "validation_failed", "/items/1"),
        ({}, "validation_failed", "/items/2/data"),
        ({"data": {}}, "validation_failed", "/items/3/data/email"),
        ({"data": {"email": 1}}, "validation_failed", "/items/4/data/email"),
        (creation(unknown=1), "validation_failed", "/items/5/data/unknown"),
        ({**creation(), "extra": 1}, "validation_failed", "/items/6/extra"),
        (creation(phone="030"), "validation_failed", "/items/7/data/phone"),
        (creation(status="deleted"), "validation_failed", "/items/8/data/status"),
        (creation(preferences={"a": "x" * 17_000}), "validation_failed", "/items/9/data/preferences"),
        ({**creation(), "ref": "r" * 256}, "validation_failed", "/items/10/ref"),
        (creation(email="TAKEN@example.org"), "email_taken", "/items/11/data/email"),
        (creation(external_id="taken"), "external_id_taken", "/items/12/data/external_id"),
    ]

    response = await service.batch("create", [*(item for item, _, _ in bad), creation()])

    assert response.status_code == 207
    items = response.json()["items"]
    seen = [(item["error"]["code"], item["error"]["pointer"]) for item in items[:-1]]
    assert seen == [(code, pointer) for _, code, pointer in bad]
    assert items[-1]["status"] == "created"
    assert "xxxx" not in response.text
    assert await service.count("users") == 2


async def test_skip_leaves_the_holder_and_names_it(service: BatchService) -> None:
    (known,) = await service.make(1, email="ada@example.org", given_name="Ada")

    response = await service.batch(
        "create", [creation(email="ADA@example.org", given_name="Eda"), creation()], on_conflict="skip"
    )

    assert response.status_code == 200
    assert outcomes(response) == ["skipped", "created"]
    assert response.json()["summary"] == {"total": 2, "succeeded": 1, "failed": 0, "skipped": 1}
    assert response.json()["items"][0]["id"] == known
    assert (await service.user(known))["given_name"] == "Ada"


async def test_update_finds_the_user_by_external_id_else_by_email(service: BatchService) -> None:
    (first,) = await service.make(1, external_id="one", email="one@example.org", given_name="One", family_name="Kept")
    (second,) = await service.make(1, email="two@example.org")
    (third,) = await service.make(1, external_id="three", email="three@example.org")
    items = [
        creation(external_id="one", email="new@example.org", given_name="Changed"),
        creation(external_id="two", email="Two@example.org"),
        creation(external_id="other", email="three@example.org"),
        creation(),
    ]

    response = await service.batch("create", items, on_conflict="update")

    assert outcomes(response) == ["updated", "updated", "email_taken", "created"]
    assert [item["id"] for item in response.json()["items"][:2]] == [first, second]
    changed = await service.user(first)
    assert (changed["email"], changed["given_name"], changed["family_name"]) == ("new@example.org", "Changed", "Kept")
    assert (await service.user(second))["external_id"] == "two"
    assert (await service.user(third))["version"] == 1
    assert await service.read_changes(first) == [(1, "created"), (2, "updated")]


async def test_two_items_about_one_existing_user_update_it_once(service: BatchService) -> None:
    await service.make(1, external_id="one", email="one@example.org")
    items = [creation(), creation(external_id="one", given_name="A"), creation(email="one@example.org")]

    response = await service.batch("create", items, on_conflict="update")

    assert outcomes(response) == ["created", "updated", "duplicate_in_batch"]
    assert "index 1" in response.json()["items"][2]["error"]["detail"]


async def test_an_empty_list_is_a_batch(service: BatchService) -> None:
    for verb in ("create", "update", "delete", "restore"):
        response = await service.batch(verb, [])
        assert response.status_code == 200
        assert response.json() == {"summary": {"total": 0, "succeeded": 0, "failed": 0, "skipped": 0}, "items": []}


async def test_a_dry_run_answers_as_if_and_changes_nothing(service: BatchService) -> None:
    (known,) = await service.make(1, email="ada@example.org")

    created = await service.batch("create", [creation(), creation(email="ada@example.org")], dry_run=True)
    deleted = await service.batch("delete", [{"id": known}], dry_run=True)

    assert outcomes(created) == ["created", "email_taken"]
    assert created.json()["items"][0]["id"] is None
    assert outcomes(deleted) == ["deleted"]
    assert (await service.user(known))["status"] == "active"
    assert await service.count("users") == 1
    assert await service.count("user_changes") == 1
    # The domain of the one that is there.
    assert await service.count("user_terms") == 1
