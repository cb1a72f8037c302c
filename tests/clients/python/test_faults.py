"""The clients behind a proxy that loses, repeats, delays and damages: one effect for each call, with both clients."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from support.faulty_proxy import FaultyProxy
from support.http_messages import problem, respond
from support.ports import free_port
from user_service_client import (
    Client,
    ConnectionFailed,
    Overloaded,
    RateLimited,
    Retry,
    ServiceError,
    UnexpectedResponse,
    UserServiceError,
)
from user_service_client.imports import IMPORT_SECONDS, PROGRESS_SECONDS, ImportMethods
from user_service_client.service import Service
from user_service_client.steps import Request, Send, exchange, parse_nothing

Address = Callable[[], str]
Through = Callable[..., AbstractContextManager[FaultyProxy]]
OpenClient = Callable[..., Any]

BUSY = problem(503, "overloaded", "Retry-After: 0")
LIMITED = problem(429, "rate_limited", "Retry-After: 0")
IN_PROGRESS = problem(409, "idempotency_in_progress")
HTML = respond(200, "text/html", "<html>sign in</html>")
NO_USER = respond(200, "application/json", '{"id": 7}')
NOT_JSON = respond(200, "application/json", '{"id": "0198')
BAD_GATEWAY = respond(502, "text/html", "<html>bad gateway</html>")
NOT_HTTP = b"\x00\xff\x16 garbage \r\n\r\n"
NOT_GZIP = respond(200, "application/json", "not gzip", "Content-Encoding: gzip")
DEEP = respond(200, "application/json", "[" * 100_000)
SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"


def name_faults(faults: object) -> str:
    """A short name of a test."""
    return re.sub(r"[^A-Za-z0-9, ]+", "", str(faults))[:60]


@pytest.mark.parametrize(
    "faults",
    [
        ["none", "none", "cut"],
        ["cut", "none"],
        ["drop", "none"],
        ["repeat"],
        ["cut_response", "repeat", "drop", "none"],
        ["none", "none", "none", "delay"],
        [BUSY, LIMITED, IN_PROGRESS, "none"],
        [HTML, NO_USER, NOT_JSON, BAD_GATEWAY, "none"],
        [NOT_HTTP, NOT_GZIP, DEEP, SHORT, "none"],
    ],
    ids=name_faults,
)
def test_each_write_takes_effect_once(
    faults: list[str | bytes], through: Through, open_one: OpenClient, client: Any
) -> None:
    domain = f"{uuid4().hex}.example.org"
    with through(*faults) as proxy:
        faulty = open_one(proxy.url, timeout_seconds=1 if "delay" in faults else 30)
        made = [faulty.users.create(email=f"u{number}@{domain}", metadata={"count": 0}) for number in range(3)]
        for user in made:
            faulty.users.update(user, given_name="Ada")
            faulty.users.update_with(user, lambda current: {"metadata": {"count": current.metadata["count"] + 1}})
        faulty.users.suspend(made[0].id)
        faulty.users.delete(made[2].id)
        listed = [user.id for user in faulty.users.list(email_domain=domain, page_size=1)]
        result = faulty.users.batch.create([{"email": f"b{number}@{domain}"} for number in range(1500)])
        exported = [user.id for user in faulty.users.export(email_domain=domain)]

    assert set(proxy.taken) == set(faults)
    assert listed == [made[0].id, made[1].id]
    # One version for each change.
    assert [client.users.get(user.id, include_deleted=True).version for user in made] == [4, 3, 4]
    assert (result.summary.succeeded, result.summary.failed) == (1500, 0)
    assert exported == [*listed, *(item.id for item in result.items)]
    assert client.users.count(email_domain=domain) == 1502


@pytest.mark.parametrize(
    "faults", [["none", "none", "cut"], ["cut_upload", "none", "cut", "none"], ["drop", "cut", "none"]], ids=name_faults
)
def test_an_import_applies_each_record_once(
    faults: list[str], through: Through, open_one: OpenClient, client: Any, tmp_path: Path
) -> None:
    domain = f"{uuid4().hex}.example.org"
    file = tmp_path / "users.ndjson"
    file.write_text(
        "".join(f'{{"email": "u{number}@{domain}", "given_name": "{"x" * 150}"}}\n' for number in range(3000))
    )

    with through(*faults) as proxy:
        done = open_one(proxy.url).users.import_file(file)

    assert (done.state, done.created, done.failed) == ("completed", 3000, 0)
    assert not done.was_done_before
    assert client.users.count(email_domain=domain) == 3000


def test_changes_are_met_once_behind_cut_connections(through: Through, open_one: OpenClient, client: Any) -> None:
    start = last_cursor(client)
    made = client.users.batch.create([{"email": f"{uuid4().hex}@example.org"} for _ in range(1200)])

    with through("none", "cut", "cut_response", "drop") as proxy:
        changes = list(open_one(proxy.url).users.changes(after=start))

    assert [change.user_id for change in changes] == [item.id for item in made.items]


def last_cursor(client: Any) -> str:
    cursor: str = [page.next_cursor for page in client.users.change_pages()][-1]
    return cursor


def test_an_export_that_is_cut_goes_on_after_the_last_user(through: Through, open_one: OpenClient, client: Any) -> None:
    domain = f"{uuid4().hex}.example.org"
    made = client.users.batch.create([{"email": f"u{number}@{domain}"} for number in range(2500)])

    with through("cut_response", "cut_response", "none") as proxy:
        users = list(open_one(proxy.url).users.export(email_domain=domain))

    assert [user.id for user in users] == [item.id for item in made.items]
    assert proxy.taken == ["cut_response", "cut_response", "none"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (BUSY, Overloaded),
        (LIMITED, RateLimited),
        (HTML, UnexpectedResponse),
        (BAD_GATEWAY, UnexpectedResponse),
        (NOT_HTTP, ConnectionFailed),
        (SHORT, ConnectionFailed),
        (NOT_GZIP, ConnectionFailed),
        ("cut", ConnectionFailed),
        ("drop", ConnectionFailed),
    ],
    ids=name_faults,
)
def test_a_deadline_ends_the_tries_with_an_error_of_the_client(
    fault: str | bytes, kind: type[UserServiceError], through: Through, open_one: OpenClient, address: Address
) -> None:
    email = address()
    with through(fault) as proxy:
        client = open_one(proxy.url, retry=Retry(0.3, 0.01, 0.05))
        with pytest.raises(kind) as caught:
            client.users.create(email=email)

    assert len(proxy.taken) > 1
    assert email not in str(caught.value)
    assert email not in repr(caught.value.__cause__)


def test_a_single_try_has_its_whole_time(through: Through, open_one: OpenClient, address: Address) -> None:
    with through("slow") as proxy:
        assert open_one(proxy.url, retry=Retry(0)).users.create(email=address()).version == 1

    assert proxy.taken == ["slow"]


def test_an_import_has_its_own_time_and_a_look_at_its_progress_a_short_one(tmp_path: Path) -> None:
    file = tmp_path / "users.ndjson"
    file.touch()
    resource = ImportMethods(Service("http://localhost", "a key"), None)
    steps = ImportMethods.import_file.function(resource, file, key="k", on_progress=print)

    sent = next(steps)
    watch = sent.request.watch

    assert sent.timeout_seconds == IMPORT_SECONDS
    assert next(watch()).timeout_seconds == PROGRESS_SECONDS < resource.service.timeout_seconds


def test_a_connection_has_no_more_time_than_a_request_without_waiting() -> None:
    with Client("http://localhost", api_key="a key", timeout_seconds=5) as client:
        send = Send(Request("POST", "/api/v1/users/imports"), IMPORT_SECONDS)
        given = client.users.service.build(client.http, send, {}).extensions["timeout"]

    assert (given["connect"], given["read"], given["write"]) == (5, IMPORT_SECONDS, IMPORT_SECONDS)


def test_the_deadline_limits_the_time_of_further_tries() -> None:
    steps = exchange(Request("GET", "/"), parse_nothing, Retry(deadline_seconds=5), timeout_seconds=30)

    sent = [next(steps)]
    for _ in range(2):
        steps.throw(httpx2.ConnectError("refused", request=httpx2.Request("GET", "http://localhost/")))
        sent.append(next(steps))

    assert sent[0].timeout_seconds == 30
    assert all(1 <= each.timeout_seconds <= 5 for each in sent[1:])


@pytest.mark.parametrize(
    "fault",
    [
        problem(503, "overloaded", "Retry-After: 3600"),
        problem(503, "overloaded", "Retry-After: Fri, 01 Jan 2100 00:00:00 GMT"),
        respond(301, "text/html", "", "Location: http://127.0.0.1:1/"),
        respond(404, "text/html", "<html>no such page</html>"),
        problem(500, "internal_error"),
        problem(418, "a_code_that_is_new"),
        respond(403, "application/problem+json", '["no", "object"]'),
        respond(403, "application/problem+json", '{"code": {"a": "third"}}'),
        respond(422, "application/problem+json", '{"code": "validation_failed", "errors": [7]}'),
    ],
    ids=name_faults,
)
def test_what_waiting_does_not_mend_is_sent_once(
    fault: bytes, through: Through, open_one: OpenClient, address: Address
) -> None:
    with through(fault) as proxy, pytest.raises(UserServiceError) as caught:
        open_one(proxy.url).users.create(email=address())

    assert proxy.taken == [fault]
    assert isinstance(caught.value, ServiceError | UnexpectedResponse)


@pytest.mark.parametrize("text", ["soon", "-5", "nan", "1e400", "", "Thu, 32 Foo 2020"])
def test_a_retry_after_that_says_nothing_is_passed_over(
    text: str, through: Through, open_one: OpenClient, address: Address
) -> None:
    with through(problem(503, "overloaded", f"Retry-After: {text}"), "none") as proxy:
        assert open_one(proxy.url).users.create(email=address()).version == 1


def test_nothing_that_listens_is_an_error_that_names_the_address(open_one: OpenClient) -> None:
    port = free_port()
    client = open_one(f"http://127.0.0.1:{port}", retry=Retry(0))

    with pytest.raises(ConnectionFailed, match=f"No response from http://127.0.0.1:{port} \\(ConnectError\\)"):
        client.users.me()


@pytest.mark.parametrize("key", ["line\nbreak", "nul\x00", "é" * 3])
def test_a_header_that_can_not_be_sent_is_not_tried_again(
    key: str, open_one: OpenClient, through: Through, address: Address
) -> None:
    with through("none") as proxy, pytest.raises((ConnectionFailed, ValueError)):
        open_one(proxy.url).users.create(email=address(), idempotency_key=key)
