"""What the clients do with users, against the live service; each test runs with both clients."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from support.faulty_proxy import FaultyProxy
from support.http_messages import problem
from support.process import ServiceProcess
from support.settings import API_KEY
from user_service_client import (
    AsyncClient,
    Client,
    EmailTaken,
    InvalidTransition,
    Unauthenticated,
    UserNotFound,
    ValidationFailed,
    VersionMismatch,
)
from user_service_client.steps import Request, Send

Address = Callable[[], str]


def test_a_user_is_created_read_and_found(client: Any, address: Address) -> None:
    email, external_id, username = address(), uuid4().hex, uuid4().hex

    made = client.users.create(email=email, external_id=external_id, username=username, metadata={"plan": "pro"})

    assert (made.version, made.status, made.metadata) == (1, "active", {"plan": "pro"})
    assert made.created_at.tzinfo is not None
    assert client.users.get(made.id) == made
    assert client.users.find_by_email(email.upper()) == made
    assert client.users.find_by_username(username) == made
    assert client.users.find_by_external_id(external_id) == made
    assert client.users.find_by_email(address()) is None


def test_an_address_that_is_taken_raises_its_own_error(client: Any, address: Address) -> None:
    email = address()
    client.users.create(email=email)

    with pytest.raises(EmailTaken) as caught:
        client.users.create(email=email)

    assert (caught.value.status, caught.value.code) == (409, "email_taken")
    assert caught.value.request_id
    assert email not in str(caught.value)


def test_an_update_of_a_user_that_has_changed_is_refused(client: Any, address: Address) -> None:
    user = client.users.create(email=address())
    newer = client.users.update(user, given_name="Ada")

    with pytest.raises(VersionMismatch):
        client.users.update(user, given_name="Grace")
    by_id = client.users.update(user.id, family_name="King", given_name=None)

    assert (newer.version, by_id.version, by_id.given_name, by_id.family_name) == (2, 3, None, "King")
    with pytest.raises(VersionMismatch):
        client.users.update(user.id, if_version=2, given_name="Grace")


def test_update_with_repeats_when_another_change_comes_first(
    client: Any, service: ServiceProcess, address: Address
) -> None:
    user = client.users.create(email=address(), metadata={"count": 0})
    seen: list[int] = []

    def increase(current: Any) -> Any:
        seen.append(current.version)
        if len(seen) == 1:
            intruder.users.update(user.id, given_name="Ada")
        return {"metadata": {"count": current.metadata["count"] + 1}}

    with Client(service.url, api_key=API_KEY) as intruder:
        changed = client.users.update_with(user.id, increase)

    assert (seen, changed.version, changed.metadata, changed.given_name) == ([1, 2], 3, {"count": 1}, "Ada")


def test_update_with_without_changes_writes_nothing(client: Any, address: Address) -> None:
    user = client.users.create(email=address())

    assert client.users.update_with(user, lambda _: None) == user


def test_a_user_goes_through_its_states(client: Any, address: Address) -> None:
    user = client.users.create(email=address())

    assert client.users.suspend(user).status == "suspended"
    assert client.users.activate(user.id).status == "active"
    client.users.record_login(user)
    assert client.users.get(user.id, fresh=True).last_login_at is not None
    assert client.users.delete(user.id) is None
    with pytest.raises(UserNotFound):
        client.users.get(user.id, fresh=True)
    restored = client.users.restore(user.id)
    assert restored.status == "active"
    with pytest.raises(InvalidTransition):
        client.users.restore(restored)


def test_an_upsert_creates_and_changes(client: Any, address: Address) -> None:
    email, external_id = address(), f"crm/{uuid4().hex} ?#é"

    made = client.users.upsert(external_id, email=email)
    changed = client.users.upsert(external_id, email=email, given_name="Ada")

    assert (made.external_id, made.id, changed.version) == (external_id, changed.id, 2)


@pytest.mark.parametrize("external_id", [".", "..", "%2F", "a/../b"])
def test_external_ids_that_look_like_paths_are_no_paths(client: Any, address: Address, external_id: str) -> None:
    email = address()

    made = client.users.upsert(external_id, email=email)
    client.users.delete(made, purge=True)

    assert made.external_id == external_id


@pytest.mark.parametrize("user_id", ["me", "", "..", "../cache", "0198c5a4/audit", "x?purge=true"])
def test_what_is_no_id_is_refused_before_anything_is_sent(client: Any, user_id: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        client.users.get(user_id)
    with pytest.raises(ValueError, match="UUID"):
        client.users.delete(user_id)


def test_lists_have_all_users_of_a_filter_and_counts_them(client: Any) -> None:
    domain = f"{uuid4().hex}.example.org"
    made = [client.users.create(email=f"u{number}@{domain}").id for number in range(5)]

    users = list(client.users.list(email_domain=domain, page_size=2))
    newest = next(client.users.list(email_domain=domain, sort="-created_at"))

    assert [user.id for user in users] == made
    assert newest.id == made[-1]
    assert client.users.count(email_domain=domain) == 5
    assert [user.id for user in client.users.export(email_domain=domain)] == made


def test_filters_are_sent_as_the_service_reads_them(client: Any, address: Address) -> None:
    key = f"k{uuid4().hex}"
    made = client.users.create(email=address(), metadata={key: True, "text": "a & b=c"}, phone="+442071838750")
    client.users.delete(made)

    assert list(client.users.list(metadata={key: True})) == []
    (found,) = client.users.list(
        metadata={key: True, "text": "a & b=c"},
        include_deleted=True,
        phone="+44 20 7183 8750",
        status="deleted",
        created_after=datetime(2020, 1, 1, tzinfo=UTC),
    )
    assert (found.id, found.status) == (made.id, "deleted")
    with pytest.raises(ValueError, match="without a zone"):
        list(client.users.list(created_after=datetime(2020, 1, 1)))  # noqa: DTZ001


def test_a_refused_field_is_named_and_its_value_is_not(client: Any, address: Address) -> None:
    with pytest.raises(ValidationFailed) as caught:
        client.users.create(email=address(), locale="certainly not a locale")

    assert [error.pointer for error in caught.value.errors] == ["/locale"]
    assert "/locale" in str(caught.value)
    assert "certainly" not in str(caught.value)


def test_an_export_as_a_file_has_the_format_and_the_fields(client: Any) -> None:
    domain = f"{uuid4().hex}.example.org"
    made = client.users.create(email=f"ada@{domain}")

    content = b"".join(client.users.export_csv(fields=["email"], email_domain=domain))

    assert content.decode().splitlines() == ["id,email", f"{made.id},ada@{domain}"]


def test_the_trail_the_export_of_a_person_and_its_erasure(client: Any, address: Address) -> None:
    user = client.users.create(email=address())
    client.users.update(user, given_name="Ada")

    trail = list(client.users.audit(user))
    person = client.users.export_person(user)
    client.users.erase(user.id)

    assert [(entry.type, entry.version) for entry in trail] == [("created", 1), ("updated", 2)]
    assert trail[1].changed == ("given_name",)
    assert person["user"]["given_name"] == "Ada"
    assert client.users.get(user.id, include_deleted=True, fresh=True).email is None


def test_changes_have_a_reason_in_the_audit_of_all_users(client: Any, address: Address) -> None:
    user = client.users.create(email=address())
    reason = f"Wunsch der Kundin – {uuid4().hex}"

    client.users.because(reason).update(user, given_name="Ada")
    client.users.because(reason).batch.delete([user.id])

    records = list(client.users.search_audit(user=user, after=user.created_at))
    assert [(record.type, record.reason) for record in records[:2]] == [("deleted", reason), ("updated", reason)]
    assert next(client.users.search_audit(audit_type="created", user=user.id)).version == 1
    for wrong in ("", " ", "two\nlines", "x" * 201):
        with pytest.raises(ValueError, match="reason"):
            client.users.because(wrong)


@pytest.mark.parametrize(
    "url", ["", "localhost:3002", "ftp://h", "http://", "http://u:p@h", "http://h?a=1", "http://[::1", "http://h:99999"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="not an address"):
            kind(url, api_key=API_KEY)


@pytest.mark.parametrize("key", ["", "line\nbreak", "é"])
def test_what_is_no_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match=r"empty|not printable ASCII") as caught:
        Client("http://localhost", api_key=key)
    assert key == "" or key not in str(caught.value)
    with pytest.raises(ValueError, match="api_key or a token"):
        Client("http://localhost", api_key="x", token="y")


@pytest.mark.parametrize("url", ["http://h", "http://h/", "http://h:80/a", "http://h/a/"])
def test_a_service_may_be_behind_a_prefix(url: str) -> None:
    with Client(url, api_key=API_KEY) as client:
        service = client.users.service
        request = service.build(client.http, Send(Request("GET", "/api/v1/users/me?a=%2F"), 1), service.credentials())

    assert str(request.url) == url.removesuffix("/").replace(":80", "") + "/api/v1/users/me?a=%2F"


def test_the_text_of_a_user_has_nothing_personal(client: Any, address: Address) -> None:
    email = address()

    user = client.users.create(email=email, given_name="Ada")

    assert user.id in repr(user)
    assert email not in repr(user)
    assert "Ada" not in repr(user)


def test_a_function_that_gives_tokens_does_not_hold_up_the_event_loop(
    through: Callable[..., AbstractContextManager[FaultyProxy]],
) -> None:
    threads: list[threading.Thread] = []

    def give_token() -> str:
        threads.append(threading.current_thread())
        return "a token"

    async def ask(url: str) -> None:
        async with AsyncClient(url, token=give_token) as client:
            await client.users.me()

    with through(problem(401, "unauthenticated")) as proxy, pytest.raises(Unauthenticated):
        asyncio.run(ask(proxy.url))

    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
