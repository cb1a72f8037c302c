"""Batches of any length, against the live service; each test runs with both clients."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import pytest

from support.faulty_proxy import FaultyProxy
from user_service_client import BatchRefused, PayloadTooLarge, Retry, UnexpectedResponse
from user_service_client.batches import MAX_BYTES, cut


def people(count: int) -> list[dict[str, Any]]:
    domain = f"{uuid4().hex}.example.org"
    return [{"email": f"u{number}@{domain}"} for number in range(count)]


def test_a_long_batch_is_cut_and_its_results_are_in_order(client: Any) -> None:
    users = people(2300)
    users[1500] = users[3]
    users[2100] = {"email": "no address"}

    result = client.users.batch.create(iter(users))

    failed = [item for item in result.items if item.error is not None]
    assert [item.index for item in result.items] == list(range(2300))
    assert (result.summary.total, result.summary.succeeded, result.summary.failed) == (2300, 2298, 2)
    assert [(item.index, item.error.code, item.error.pointer) for item in failed] == [
        (1500, "email_taken", "/items/1500/data/email"),
        (2100, "validation_failed", "/items/2100/data/email"),
    ]


def test_users_are_changed_deleted_and_restored_in_batches(client: Any) -> None:
    ids = [item.id for item in client.users.batch.create(people(3)).items]
    users = [client.users.get(each) for each in ids]

    changed = client.users.batch.update([(users[0], {"given_name": "Ada"}), (ids[1], {"status": "suspended"})])
    stale = client.users.batch.delete([users[0], users[2]])
    restored = client.users.batch.restore([users[2].id], idempotency_key=uuid4().hex)

    assert [(item.status, item.version) for item in changed.items] == [("updated", 2), ("updated", 2)]
    assert [item.error.code if item.error else item.status for item in stale.items] == ["version_mismatch", "deleted"]
    assert [item.status for item in restored.items] == ["restored"]


def test_an_atomic_batch_is_applied_as_a_whole_or_not(client: Any) -> None:
    users = people(3)
    client.users.create(**users[1])

    with pytest.raises(BatchRefused) as caught:
        client.users.batch.create(users, mode="atomic")
    with pytest.raises(ValueError, match="at most 1,000 items"):
        client.users.batch.create(people(1001), mode="atomic")

    assert [(item.index, item.error.code) for item in caught.value.results] == [(1, "email_taken")]
    assert client.users.find_by_email(users[0]["email"]) is None


def test_conflicts_are_skipped_and_dry_runs_change_nothing(client: Any) -> None:
    users = people(2)
    client.users.create(**users[0])

    tried = client.users.batch.create(users, on_conflict="skip", dry_run=True)
    result = client.users.batch.create(users, on_conflict="skip")

    assert [item.status for item in tried.items] == [item.status for item in result.items] == ["skipped", "created"]
    assert (result.summary.skipped, result.summary.succeeded) == (1, 1)


def test_an_empty_batch_sends_nothing(client: Any) -> None:
    result = client.users.batch.create([])

    assert (result.items, result.summary.total) == ((), 0)


def test_users_are_found_by_any_number_of_keys(client: Any) -> None:
    users = people(1200)
    ids = [item.id for item in client.users.batch.create(users).items]

    found = client.users.batch.find(ids=ids[:2], emails=[*(user["email"] for user in users), "absent@example.org"])

    assert {user.id for user in found.found} == set(ids)
    assert len(found.found) == 1200
    assert found.missing.emails == ("absent@example.org",)


def test_the_same_key_gives_the_same_users_in_another_process(client: Any) -> None:
    users, key = people(1100), uuid4().hex

    first, second = (client.users.batch.create(users, idempotency_key=key) for _ in range(2))

    assert first == second
    assert second.summary.failed == 0


def test_a_batch_that_stops_has_the_results_before(
    client: Any,
    open_one: Callable[..., Any],
    through: Callable[..., AbstractContextManager[FaultyProxy]],
) -> None:
    page = b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    users = people(1500)
    with through("none", page) as proxy, pytest.raises(UnexpectedResponse) as caught:
        open_one(proxy.url, retry=Retry(0)).users.batch.create(users)

    assert [item.status for item in caught.value.results] == ["created"] * 1000
    assert client.users.find_by_email(users[1000]["email"]) is None


def test_chunks_keep_to_the_number_and_the_size_that_the_service_takes(client: Any) -> None:
    users = [{**user, "preferences": {"text": "ä" * 8000}} for user in people(300)]

    result = client.users.batch.create(users)
    with pytest.raises(PayloadTooLarge):
        client.users.batch.create([{"email": "a@example.org", "preferences": {"text": "x" * 3_000_000}}])

    assert result.summary.succeeded == 300
    sizes = [sum(map(len, chunk)) for chunk in cut([b"x" * 700_000] * 5)]
    assert max(sizes) <= MAX_BYTES
    assert [len(chunk) for chunk in cut([b"x" * 700_000] * 5)] == [2, 2, 1]
