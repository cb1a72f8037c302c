import asyncio
from contextlib import suppress
from uuid import uuid4

import httpx
import pytest
from asyncpg import DeadlockDetectedError

from support.batch_service import BatchService, creation, outcomes

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]


async def test_updates_patch_each_user_and_log_it(service: BatchService) -> None:
    ids = await service.make(3, given_name="Ada", metadata={"plan": "pro"})
    items = [
        {"ref": "a", "id": ids[2], "data": {"given_name": None, "metadata": {"plan": None, "seats": 2}}},
        {"id": ids[0], "if_version": 1, "data": {"status": "suspended"}},
        {"id": ids[1], "data": {"given_name": "Ada"}},
    ]

    response = await service.batch("update", items)

    assert response.status_code == 200
    assert [(item["ref"], item["id"], item["version"]) for item in response.json()["items"]] == [
        ("a", ids[2], 2),
        (None, ids[0], 2),
        (None, ids[1], 1),
    ]
    changed = await service.user(ids[2])
    assert (changed["given_name"], changed["metadata"]) == (None, {"seats": 2})
    assert await service.read_changes(ids[0]) == [(1, "created"), (2, "status_changed")]
    assert await service.read_changes(ids[1]) == [(1, "created")]
    found = await service.client.get("/api/v1/users?metadata.plan=pro")
    assert {user["id"] for user in found.json()["items"]} == {ids[0], ids[1]}


async def test_every_kind_of_bad_update_fails_alone(service: BatchService) -> None:
    ids = await service.make(4)
    (taken,) = await service.make(1, email="taken@example.org", external_id="taken")
    (gone,) = await service.make(1)
    await service.batch("delete", [{"id": gone}])
    items = [
        {"id": "no", "data": {}},
        {"id": str(uuid4()), "data": {}},
        {"id": gone, "data": {}},
        {"id": ids[0], "if_version": 9, "data": {}},
        {"id": ids[0], "data": {}},
        {"id": ids[1], "data": {"email": "Taken@example.org"}},
        {"id": ids[2], "data": {"external_id": "taken"}},
        {"id": taken, "data": {"status": "pending"}},
        {"id": ids[3], "if_version": 0, "data": {}},
        {"id": ids[3], "data": {"given_name": "Good"}},
    ]

    response = await service.batch("update", items)

    assert outcomes(response) == [
        "validation_failed",
        "user_not_found",
        "user_not_found",
        "version_mismatch",
        "duplicate_in_batch",
        "email_taken",
        "external_id_taken",
        "invalid_transition",
        "validation_failed",
        "updated",
    ]
    assert response.json()["items"][0]["error"]["pointer"] == "/items/0/id"
    assert "index 3" in response.json()["items"][4]["error"]["detail"]


async def test_the_first_of_two_items_with_one_address_gets_it(service: BatchService) -> None:
    ids = await service.make(3)
    emails = ("N@x.org", "m@x.org", "n@X.org")
    items = [{"id": user_id, "data": {"email": email}} for user_id, email in zip(ids, emails, strict=True)]

    response = await service.batch("update", items)

    assert outcomes(response) == ["updated", "updated", "duplicate_in_batch"]


async def test_an_address_that_an_item_keeps_is_refused_to_another_item(service: BatchService) -> None:
    (keeper,) = await service.make(1, email="kept@example.org")
    (other,) = await service.make(1)
    items = [{"id": other, "data": {"email": "kept@example.org"}}, {"id": keeper, "data": {"given_name": "K"}}]

    response = await service.batch("update", items)

    assert outcomes(response) == ["duplicate_in_batch", "updated"]
    assert "index 1" in response.json()["items"][0]["error"]["detail"]


async def test_a_user_that_asks_for_a_username_has_precedence_for_the_address_that_it_keeps(
    service: BatchService,
) -> None:
    """Whatever else it asks for, and whether it comes first or last."""
    (keeper,) = await service.make(1, email="kept@example.org", aliases=["also@example.org"])
    others = await service.make(2)
    items = [
        {"id": others[0], "data": {"email": "kept@example.org"}},
        {"id": keeper, "data": {"username": "keeper"}},
        {"id": others[1], "data": {"aliases": ["also@example.org"], "username": "other"}},
    ]

    response = await service.batch("update", items)

    assert outcomes(response) == ["duplicate_in_batch", "updated", "duplicate_in_batch"]
    for place in (0, 2):
        assert "index 1" in response.json()["items"][place]["error"]["detail"]
    assert (await service.user(keeper))["username"] == "keeper"


async def test_a_user_that_fails_in_a_batch_leaves_its_address_to_no_other_item(service: BatchService) -> None:
    (failing,) = await service.make(1, email="left@example.org")
    (named,) = await service.make(1, username="named")
    (other,) = await service.make(1)
    items = [
        {"id": failing, "data": {"email": "new@example.org", "username": "named"}},
        {"id": other, "data": {"email": "left@example.org"}},
        {"id": named, "data": {"given_name": "N"}},
    ]

    response = await service.batch("update", items)

    assert outcomes(response) == ["duplicate_in_batch", "email_taken", "updated"]


async def test_deletes_and_restores_with_a_reused_address(service: BatchService) -> None:
    ids = await service.make(1, email="first@example.org") + await service.make(1, email="second@example.org")
    deleted = await service.batch("delete", [{"id": user_id} for user_id in ids])
    await service.make(1, email="SECOND@example.org")

    restored = await service.batch("restore", [{"id": ids[1]}, {"id": ids[0]}, {"id": str(uuid4())}])
    again = await service.batch("restore", [{"id": ids[0]}])

    assert outcomes(deleted) == ["deleted", "deleted"]
    assert outcomes(restored) == ["email_taken", "restored", "user_not_found"]
    assert outcomes(again) == ["invalid_transition"]
    assert await service.read_changes(ids[0]) == [(1, "created"), (2, "deleted"), (3, "restored")]
    assert await service.read_changes(ids[1]) == [(1, "created"), (2, "deleted")]


async def test_two_deleted_users_with_one_address_are_not_both_restored(service: BatchService) -> None:
    ids = []
    for _ in range(2):
        ids += await service.make(1, email="same@example.org")
        await service.batch("delete", [{"id": ids[-1]}])

    response = await service.batch("restore", [{"id": user_id} for user_id in reversed(ids)])

    assert outcomes(response) == ["restored", "duplicate_in_batch"]
    assert (await service.user(ids[1]))["status"] == "active"


async def test_atomic_applies_nothing_and_lists_every_failing_item(service: BatchService) -> None:
    ids = await service.make(2)
    await service.user(ids[0])
    items = [
        {"id": ids[0], "data": {"given_name": "Ada"}},
        {"ref": "lost", "id": str(uuid4()), "data": {}},
        {"id": ids[1], "data": {"email": "no"}},
    ]

    response = await service.batch("update", items, mode="atomic")

    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == "batch_refused"
    assert [(item["index"], item["ref"]) for item in problem["items"]] == [(1, "lost"), (2, None)]
    assert [fault["pointer"] for fault in problem["errors"]] == ["/items/1/id", "/items/2/data/email"]
    assert problem["summary"] == {"total": 3, "succeeded": 0, "failed": 2, "skipped": 1}
    assert await service.read_changes(ids[0]) == [(1, "created")]
    assert (await service.user(ids[0], **{"Cache-Control": "no-cache"}))["given_name"] is None


async def test_atomic_applies_all_when_all_are_good(service: BatchService) -> None:
    response = await service.batch("create", [creation(), creation()], mode="atomic")

    assert response.status_code == 200
    assert await service.count("users") == 2


async def test_a_batch_invalidates_the_cache_of_what_it_changed(service: BatchService) -> None:
    ids = await service.make(2, given_name="Old")
    for user_id in ids:
        await service.user(user_id)

    await service.batch("update", [{"id": ids[0], "data": {"given_name": "New"}}])
    await service.batch("delete", [{"id": ids[1]}])

    assert (await service.user(ids[0]))["given_name"] == "New"
    assert (await service.user(ids[1]))["code"] == "user_not_found"


async def test_concurrent_batches_over_the_same_users_in_other_orders_all_end(service: BatchService) -> None:
    ids = await service.make(200, external_id=None)
    forwards = [{"id": user_id, "data": {"given_name": "A"}} for user_id in ids]
    gone = [{"id": user_id} for user_id in reversed(ids)]

    responses = await asyncio.gather(
        service.batch("update", forwards),
        service.batch("delete", gone),
        service.batch("update", forwards[::-1]),
        service.batch("delete", gone[::-1]),
    )

    first, deletion, second, other_deletion = responses
    assert {"updated", "user_not_found"} >= set(outcomes(first)) | set(outcomes(second))
    deleted = [set(outcomes(response)) for response in (deletion, other_deletion)]
    assert {"deleted"} in deleted
    assert {"user_not_found"} in deleted
    assert await service.count("users WHERE status = 'deleted'") == 200
    versions = await service.database.fetchval(
        "SELECT count(*) FROM users u WHERE version <> (SELECT count(*) FROM user_changes c WHERE c.user_id = u.id)"
    )
    assert versions == 0


async def test_concurrent_upserts_with_crossed_keys_all_end(service: BatchService) -> None:
    """Identifiers that are claimed in one order, and users that are locked in another: where they contradict each
    other, PostgreSQL gives one up, and it is run again.
    """
    count = 60

    def items(shift: int) -> list[dict[str, object]]:
        return [creation(email=f"e{n}@x.org", external_id=f"x{(n + shift) % count}") for n in range(count)]

    responses = await asyncio.gather(
        *(service.batch("create", items(shift), on_conflict="update") for shift in (0, 7, 23, 41))
    )

    assert {response.status_code for response in responses} <= {200, 207}
    assert all(len(outcomes(response)) == count for response in responses)
    living = await service.count("users WHERE deleted_at IS NULL")
    assert living == await service.database.fetchval("SELECT count(*) FROM identifiers WHERE kind = 1")


async def give_up_a_batch(service: BatchService, low: str, high: str) -> httpx.Response:
    """The answer to a batch that PostgreSQL ends in favour of the test. Raises DeadlockDetectedError when it does the
    reverse: a session that has waited for a second looks for a deadlock, and a busy machine may not have one by then.
    """
    items = [{"id": user_id, "data": {"given_name": "Ada"}} for user_id in (low, high)]
    lock = "SELECT 1 FROM users WHERE id = $1 FOR UPDATE"
    async with service.database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(lock, high)
        batch = asyncio.create_task(service.batch("update", items))
        try:
            await service.wait_for_lock_waiters()
            await connection.execute(lock, low)
        finally:
            await transaction.rollback()
            response = await batch
    return response


@pytest.mark.one_server
async def test_a_batch_that_postgresql_gave_up_is_run_again(service: BatchService) -> None:
    for _ in range(5):
        low, high = sorted(await service.make(2))
        with suppress(DeadlockDetectedError):
            response = await give_up_a_batch(service, low, high)
            break

    assert outcomes(response) == ["updated", "updated"]
    assert service.client.application.resources.metrics.database_errors.values == {("DeadlockDetectedError",): 1}
    assert await service.read_changes(low) == [(1, "created"), (2, "updated")]
