"""Imports of files and the feed of changes, against the live service; each test runs with both clients."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from user_service_client import CursorFile, ImportDiffers, InvalidCursor, NotFound, Unauthenticated, ValidationFailed


def write_users(file: Path, count: int, **more: Any) -> list[str]:
    """Writes a file of NDJSON; returns the addresses."""
    addresses = [f"u{number}@{uuid4().hex}.example.org" for number in range(count)]
    file.write_text("".join(json.dumps({"email": email, **more}) + "\n" for email in addresses))
    return addresses


def test_a_file_is_imported_once_however_often_it_is_sent(client: Any, tmp_path: Path) -> None:
    file = tmp_path / "users.jsonl"
    addresses = write_users(file, 1200)

    first, second = (client.users.import_file(file) for _ in range(2))

    assert (first.state, first.format, first.created, first.position) == ("completed", "ndjson", 1200, 1200)
    assert (first.was_done_before, second.was_done_before) == (False, True)
    assert second.id == first.id
    assert client.users.find_by_email(addresses[-1]) is not None
    assert client.users.get_import(first.id).created == 1200


def test_failed_records_are_listed_with_their_lines(client: Any, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_text(f"email,shoe_size\na-{uuid4().hex}@example.org,5\nnobody,6\n")

    done = client.users.import_file(file, ignore_unknown_columns=True)
    (failure,) = client.users.import_failures(done.id)

    assert (done.created, done.failed) == (1, 1)
    assert (failure.record, failure.line, failure.field, failure.code) == (2, 3, "email", "validation_failed")
    assert "nobody" not in repr(failure)
    with pytest.raises(ValidationFailed):
        client.users.import_file(file, key=uuid4().hex)


def test_a_dry_run_changes_nothing_and_may_be_repeated(client: Any, tmp_path: Path) -> None:
    file = tmp_path / "users.ndjson"
    addresses = write_users(file, 3)

    tried = [client.users.import_file(file, dry_run=True) for _ in range(2)]

    assert [(each.created, each.dry_run, each.was_done_before) for each in tried] == [(3, True, False)] * 2
    assert client.users.find_by_email(addresses[0]) is None


def test_another_file_under_the_same_key_is_refused(client: Any, tmp_path: Path) -> None:
    key = uuid4().hex
    for name in ("a.ndjson", "b.ndjson"):
        write_users(tmp_path / name, 2)
    client.users.import_file(tmp_path / "a.ndjson", key=key)

    with pytest.raises(ImportDiffers):
        client.users.import_file(tmp_path / "b.ndjson", key=key)
    found = client.users.find_import(key)

    assert found.created == 2
    assert client.users.find_import(uuid4().hex) is None
    with pytest.raises(NotFound):
        client.users.get_import(uuid4())


def test_progress_is_what_the_service_has_applied(client: Any, tmp_path: Path) -> None:
    file = tmp_path / "users.ndjson"
    # They take a few times as long as the pause between two reports.
    write_users(file, 16_000, preferences={"text": "x" * 3000})
    seen: list[int] = []

    done = client.users.import_file(file, on_progress=lambda current: seen.append(current.position))

    assert done.created == 16_000
    assert seen == sorted(seen)
    assert seen
    assert seen[-1] <= 16_000


def test_files_of_one_content_and_two_formats_are_two_imports(client: Any, tmp_path: Path) -> None:
    for name in ("empty.csv", "empty.ndjson"):
        (tmp_path / name).touch()
        assert client.users.import_file(tmp_path / name).position == 0


@pytest.mark.parametrize("name", ["users.xlsx", "users"])
def test_a_file_of_an_unknown_format_is_refused_before_it_is_sent(client: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="ndjson or csv"):
        client.users.import_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        client.users.import_file(tmp_path / "absent.csv")


def newest_cursor(client: Any) -> str:
    cursor: str = [page.next_cursor for page in client.users.change_pages()][-1]
    return cursor


def test_changes_come_in_the_order_of_versions(client: Any, address: Callable[[], str]) -> None:
    start = newest_cursor(client)
    user = client.users.create(email=address())
    client.users.update(user, given_name="Ada")
    client.users.delete(user.id)

    changes = list(client.users.changes(after=start))

    assert [(change.user_id, change.version, change.type) for change in changes] == [
        (user.id, 1, "created"),
        (user.id, 2, "updated"),
        (user.id, 3, "deleted"),
    ]
    assert changes[1].changed == ("given_name",)
    assert [change.type for change in client.users.changes(after=start, change_type="deleted")] == ["deleted"]
    with pytest.raises(InvalidCursor):
        list(client.users.changes(after="not a cursor"))


def test_a_stored_cursor_continues_where_the_last_program_ended(
    client: Any, address: Callable[[], str], tmp_path: Path
) -> None:
    store = CursorFile(tmp_path / "cursor")
    assert store.load() is None
    for _ in client.users.changes(after=store):
        pass
    first = client.users.create(email=address())

    # A program that ends before it has taken the whole page meets it again.
    taken = next(client.users.changes(after=store))
    again = list(client.users.changes(after=store))
    after = list(client.users.changes(after=store))

    assert taken.user_id == first.id
    assert [change.user_id for change in again] == [first.id]
    assert after == []


def test_a_follower_gets_changes_when_they_happen(client: Any, address: Callable[[], str]) -> None:
    start = newest_cursor(client)
    followed = client.users.changes(after=start, follow=True)
    made: list[str] = []

    def create_later() -> None:
        time.sleep(0.3)
        from support.clients import API_KEY, Client

        service = client.users.service
        with Client(getattr(service, "inner", service).url, api_key=API_KEY) as other:
            made.append(other.users.create(email=address()).id)

    thread = threading.Thread(target=create_later)
    thread.start()
    change = next(followed)
    thread.join()

    assert [change.user_id] == made


def test_a_wrong_key_is_an_error_without_the_key(open_one: Callable[..., Any], service: Any) -> None:
    client = open_one(service.url, api_key="another-key-of-nobody-0123456789")

    with pytest.raises(Unauthenticated) as caught:
        client.users.count()

    assert "another-key" not in str(caught.value) + repr(getattr(client, "inner", client).users.service)
