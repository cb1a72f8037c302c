"""`POST /users/imports` and what is told of it; `GET /users/export`."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.api import created_path
from support.application import started
from support.settings import API_KEY, make_settings
from user_service.app import Application
from user_service.bootstrap import Resources

pytestmark = [pytest.mark.anyio, pytest.mark.distributed]
NDJSON = {"Content-Type": "application/x-ndjson"}
CSV = {"Content-Type": "text/csv"}
IMPORTS = "/api/v1/users/imports"


def lines(users: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(user) + "\n" for user in users).encode()


def people(count: int, prefix: str = "u") -> list[dict[str, Any]]:
    return [{"email": f"{prefix}{number}@example.org", "external_id": f"{prefix}-{number}"} for number in range(count)]


async def send_and_leave(application: Application, content: bytes, key: str) -> None:
    """An import whose sender goes away after `content`."""
    messages = iter([{"type": "http.request", "body": content, "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: MutableMapping[str, Any]) -> None:
        """Discards the message."""

    headers = {"x-api-key": API_KEY, "idempotency-key": key, **{name.lower(): value for name, value in NDJSON.items()}}
    scope = {
        "type": "http",
        "method": "POST",
        "path": IMPORTS,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await application(scope, receive, send)


async def exported(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    response = await client.get("/api/v1/users/export")
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


async def test_an_import_creates_its_users_and_says_so(client: httpx.AsyncClient) -> None:
    response = await client.post(IMPORTS, content=lines(people(2500)), headers=NDJSON)
    assert response.status_code == 202
    found = (await client.get(created_path(response))).json()
    assert found == response.json()
    assert (found["state"], found["position"], found["created"], found["failed"]) == ("completed", 2500, 2500, 0)
    assert found["finished_at"] is not None
    assert [user["external_id"] for user in await exported(client)] == [f"u-{number}" for number in range(2500)]
    assert (await client.get(IMPORTS)).json()["items"][0]["id"] == found["id"]


async def test_failures_are_reported_by_record_and_field_and_the_others_are_created(client: httpx.AsyncClient) -> None:
    users = people(1200)
    users[3]["email"] = "nobody"
    users[1100]["email"] = "U7@EXAMPLE.org"
    users[1150] = {"email": "x@example.org", "shoe_size": 5}
    response = await client.post(IMPORTS, content=lines(users) + b"{bad\n", headers=NDJSON)
    assert (response.json()["created"], response.json()["failed"], response.json()["position"]) == (1197, 4, 1201)
    failures = await client.get(f"{created_path(response)}/errors")
    told = [json.loads(line) for line in failures.text.splitlines()]
    assert [(line["record"], line["code"], line["pointer"]) for line in told] == [
        (4, "validation_failed", "/email"),
        (1101, "email_taken", "/email"),
        # The name is the sender's, and may be anything: it is not kept.
        (1151, "validation_failed", None),
        (1201, "malformed_json", None),
    ]
    assert "nobody" not in failures.text
    assert "example.org" not in failures.text.lower().replace("ada@example.org", "")


async def test_csv_is_taken_too(client: httpx.AsyncClient) -> None:
    content = b'email,given_name,metadata.plan\na@example.org,"Ada, Countess",pro\nb@example.org,,\n'
    response = await client.post(IMPORTS, content=content, headers=CSV)
    assert response.json()["created"] == 2
    first, second = await exported(client)
    assert (first["given_name"], first["metadata"]) == ("Ada, Countess", {"plan": "pro"})
    assert (second["given_name"], second["metadata"]) == (None, {})


@pytest.mark.parametrize(("on_conflict", "outcome"), [("fail", "failed"), ("skip", "skipped"), ("update", "updated")])
async def test_on_conflict_decides_about_existing_users(
    client: httpx.AsyncClient, on_conflict: str, outcome: str
) -> None:
    await client.post(IMPORTS, content=lines(people(3)), headers=NDJSON)
    again = lines([{**user, "given_name": "Ada"} for user in people(4)])
    response = await client.post(f"{IMPORTS}?on_conflict={on_conflict}", content=again, headers=NDJSON)
    assert (response.json()["created"], response.json()[outcome]) == (1, 3)


async def test_the_same_file_under_the_same_key_is_imported_once(client: httpx.AsyncClient) -> None:
    headers = {**NDJSON, "Idempotency-Key": "one"}
    first = await client.post(IMPORTS, content=lines(people(10)), headers=headers)
    second = await client.post(IMPORTS, content=lines(people(10)), headers=headers)
    assert second.json() == first.json()
    assert len(await exported(client)) == 10


async def test_an_import_that_was_cut_off_goes_on_where_it_stopped(
    application: Application, client: httpx.AsyncClient
) -> None:
    headers = {**NDJSON, "Idempotency-Key": "cut"}
    users = people(5500)
    await send_and_leave(application, lines(users[:3200]), "cut")
    cut_off = (await client.get(IMPORTS)).json()["items"][0]
    assert cut_off["state"] == "interrupted"
    assert cut_off["position"] in {1000, 2000, 3000}
    response = await client.post(IMPORTS, content=lines(users), headers=headers)
    assert (response.json()["id"], response.json()["state"]) == (cut_off["id"], "completed")
    assert (response.json()["created"], response.json()["failed"]) == (5500, 0)
    assert len(await exported(client)) == 5500


async def test_two_requests_that_continue_one_import_apply_nothing_twice(client: httpx.AsyncClient) -> None:
    headers = {**NDJSON, "Idempotency-Key": "both"}
    content = lines(people(4000))
    responses = await asyncio.gather(*(client.post(IMPORTS, content=content, headers=headers) for _ in range(4)))
    assert 202 in {response.status_code for response in responses} <= {202, 409}
    assert all(a.json()["code"] == "import_in_progress" for a in responses if a.status_code == 409)
    last = await client.post(IMPORTS, content=content, headers=headers)
    assert (last.json()["created"], last.json()["failed"]) == (4000, 0)
    assert len(await exported(client)) == 4000


async def test_another_file_under_the_same_key_is_refused(application: Application, client: httpx.AsyncClient) -> None:
    headers = {**NDJSON, "Idempotency-Key": "differs"}
    await send_and_leave(application, lines(people(2500)), "differs")
    other = await client.post(IMPORTS, content=lines(people(2500, "other")), headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "import_differs")
    csv = await client.post(IMPORTS, content=b"email\na@b.org\n", headers={**CSV, "Idempotency-Key": "differs"})
    assert (csv.status_code, csv.json()["code"]) == (422, "idempotency_key_reused")


async def test_another_file_under_the_key_of_a_completed_import_is_refused(client: httpx.AsyncClient) -> None:
    headers = {**NDJSON, "Idempotency-Key": "completed"}
    first = await client.post(IMPORTS, content=lines(people(1200)), headers=headers)
    assert first.json()["state"] == "completed"
    for other in (people(10), people(1200, "other"), people(1201)):
        refused = await client.post(IMPORTS, content=lines(other), headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (422, "import_differs")
    again = await client.post(IMPORTS, content=lines(people(1200)), headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(await exported(client)) == 1200


async def test_a_file_that_can_not_be_read_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(IMPORTS, content=b"email,shoe_size\na@b.org,5\n", headers=CSV)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/header")
    assert (await client.get(IMPORTS)).json()["items"][0]["state"] == "failed"
    wrong = await client.post(IMPORTS, content=b"{}", headers={"Content-Type": "application/json"})
    assert (wrong.status_code, wrong.json()["code"]) == (415, "unsupported_media_type")


async def test_an_empty_file_is_an_import_without_users(client: httpx.AsyncClient) -> None:
    response = await client.post(IMPORTS, content=b"", headers=NDJSON)
    assert (response.status_code, response.json()["state"], response.json()["position"]) == (202, "completed", 0)


async def test_an_import_that_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    for path in ("", "/errors"):
        response = await client.get(f"{IMPORTS}/0198c5a4-7d10-7cc2-9b1e-3f2a6c5d4e8f{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_the_export_leaves_deleted_users_out_unless_they_are_asked_for(client: httpx.AsyncClient) -> None:
    await client.post(IMPORTS, content=lines(people(3)), headers=NDJSON)
    gone = (await exported(client))[1]["id"]
    await client.delete(f"/api/v1/users/{gone}")
    assert [user["external_id"] for user in await exported(client)] == ["u-0", "u-2"]
    whole = await client.get("/api/v1/users/export?include=deleted")
    assert len(whole.text.splitlines()) == 3


async def test_an_export_can_be_imported_again(client: httpx.AsyncClient) -> None:
    await client.post(IMPORTS, content=lines(people(3)), headers=NDJSON)
    users = await exported(client)
    assert all(user["version"] == 1 for user in users)
    given = [{key: user[key] for key in ("email", "external_id", "metadata")} for user in users]
    again = await client.post(f"{IMPORTS}?on_conflict=update", content=lines(given), headers=NDJSON)
    assert again.json()["updated"] == 3


async def test_an_import_may_take_longer_than_other_requests(database_url: str, tmp_path: Path) -> None:
    settings = make_settings(database_url, tmp_path, request_timeout=1)

    async def slowly() -> AsyncIterator[bytes]:
        for number in range(4):
            yield lines(people(10, f"slow{number}"))
            await asyncio.sleep(0.5)

    async with started(Application(Resources(settings))) as client:
        response = await client.post(IMPORTS, content=slowly(), headers=NDJSON)

    assert (response.status_code, response.json()["created"]) == (202, 40)
