"""How imports answer: what was applied, what was refused and where, and what is done before."""

import json
from typing import Any

import httpx
import pytest

from support.api import USERS, expect_problem

pytestmark = pytest.mark.anyio
IMPORTS = f"{USERS}/imports"
CSV = {"Content-Type": "text/csv"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def rows(count: int) -> bytes:
    return b"email,given_name\n" + b"".join(b"u%d@example.org,Ada\n" % number for number in range(count))


def address(response: httpx.Response) -> str:
    return str(response.url.join(response.headers["location"]))


async def failures(client: httpx.AsyncClient, response: httpx.Response) -> list[dict[str, Any]]:
    listed = await client.get(f"{address(response)}/errors")
    return [json.loads(line) for line in listed.text.splitlines()]


async def count_users(client: httpx.AsyncClient) -> int:
    return len((await client.get(f"{USERS}/export")).text.splitlines())


async def test_a_file_that_is_refused_midway_answers_with_what_was_applied(client: httpx.AsyncClient) -> None:
    content = rows(2500) + b"x" * 300_000
    response = await client.post(IMPORTS, content=content, headers=CSV)

    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")
    problem = response.json()
    found = (await client.get(address(response))).json()
    assert problem["import"] == found
    assert (found["state"], found["position"], found["line"], found["created"]) == ("failed", 2000, 2001, 2000)
    assert "Line 2502: the line is longer" in problem["detail"]
    assert f"Import {found['id']} has processed 2,000 records, to line 2,001" in problem["detail"]
    assert problem["errors"][0]["code"] == "record_too_long"
    assert await count_users(client) == 2000


async def test_a_refused_import_continues_with_its_key_when_the_file_is_mended(client: httpx.AsyncClient) -> None:
    headers = {**CSV, "Idempotency-Key": "mended"}
    refused = await client.post(IMPORTS, content=rows(2500) + b"x" * 300_000, headers=headers)
    response = await client.post(IMPORTS, content=rows(2501), headers=headers)
    assert (response.status_code, response.headers["location"]) == (202, refused.headers["location"])
    assert (response.json()["created"], response.json()["failed"]) == (2501, 0)
    assert "idempotency-replayed" not in response.headers


@pytest.mark.parametrize("count", [0, 1000, 2499])
@pytest.mark.parametrize("state", ["complete", "refused"])
async def test_a_shorter_file_under_a_key_is_refused_and_ends_nothing(
    client: httpx.AsyncClient, count: int, state: str
) -> None:
    """An empty upload, say of a pipe that broke, must not count as the rest of the file."""
    headers = {**CSV, "Idempotency-Key": "shorter"}
    whole = rows(2500)
    begun = await client.post(IMPORTS, content=whole + (b"x" * 300_000 if state == "refused" else b""), headers=headers)
    position = (await client.get(address(begun))).json()["position"]

    response = await client.post(IMPORTS, content=rows(count), headers=headers)

    if count < position:
        assert (response.status_code, response.json()["code"]) == (422, "import_differs")
        assert f"The file has {count:,} records, and {position:,} of this import are done" in response.json()["detail"]
        again = await client.post(IMPORTS, content=whole, headers=headers)
        assert (again.status_code, again.json()["created"], again.json()["failed"]) == (202, 2500, 0)
    else:
        assert (response.status_code, response.json()["position"]) == (202, count)


async def test_another_file_under_a_key_names_the_import(client: httpx.AsyncClient) -> None:
    headers = {**CSV, "Idempotency-Key": "other"}
    first = await client.post(IMPORTS, content=rows(3), headers=headers)
    response = await client.post(IMPORTS, content=rows(2), headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "import_differs")
    assert response.json()["import"] == first.json()
    assert response.headers["location"] == first.headers["location"]


async def test_failures_have_the_line_and_the_field(client: httpx.AsyncClient) -> None:
    content = (
        b"email;given_name;metadata;email_verified\r\n\r\n"
        b'a@example.org;Ada;"{""seats"":\r\n5}";1\r\n'
        b"nobody;Bo;;\r\n"
        b"b@example.org;Jos\xe9;;\r\n"
        b"c@example.org;Cy;{bad;\r\n"
        b"d@example.org;Di;;maybe\r\n"
        b'e@example.org;"Ed;;\r\n'
        b"f@example.org;Flo;;\r\n"
    )
    response = await client.post(IMPORTS, content=content, headers=CSV)
    assert (response.status_code, response.json()["created"], response.json()["failed"]) == (202, 1, 5)
    assert [(row["record"], row["line"], row["field"], row["code"]) for row in await failures(client, response)] == [
        (2, 5, "email", "validation_failed"),
        (3, 6, "given_name", "encoding"),
        (4, 7, "metadata", "malformed_json"),
        (5, 8, "email_verified", "validation_failed"),
        (6, 9, None, "unclosed_quote"),
    ]
    assert (response.json()["position"], response.json()["line"]) == (6, 9)


async def test_a_dry_run_counts_and_applies_nothing(client: httpx.AsyncClient) -> None:
    await client.post(USERS, json={"email": "u7@example.org"})
    response = await client.post(f"{IMPORTS}?dry_run=true", content=rows(1200) + b"nobody,\n", headers=CSV)
    found = response.json()
    assert (response.status_code, found["state"], found["dry_run"], found["position"]) == (202, "completed", True, 1201)
    assert (found["created"], found["failed"]) == (1199, 2)
    assert [row["line"] for row in await failures(client, response)] == [9, 1202]
    assert await count_users(client) == 1


async def test_a_repeated_import_is_marked(client: httpx.AsyncClient) -> None:
    headers = {**CSV, "Idempotency-Key": "twice"}
    first = await client.post(IMPORTS, content=rows(3), headers=headers)
    second = await client.post(IMPORTS, content=rows(3), headers=headers)
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.json() == first.json()


@pytest.mark.parametrize("option", ["dry_run=true", "keep_ids=true", "on_conflict=skip"])
async def test_a_key_belongs_to_its_options(client: httpx.AsyncClient, option: str) -> None:
    headers = {**CSV, "Idempotency-Key": "options"}
    await client.post(IMPORTS, content=rows(3), headers=headers)
    response = await client.post(f"{IMPORTS}?{option}", content=rows(3), headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")


async def test_an_import_is_found_by_its_key(client: httpx.AsyncClient) -> None:
    started = await client.post(IMPORTS, content=rows(1), headers={**CSV, "Idempotency-Key": "mine"})
    await client.post(IMPORTS, content=rows(0), headers=CSV)
    assert (await client.get(IMPORTS, params={"key": "mine"})).json() == {"items": [started.json()]}
    assert (await client.get(IMPORTS, params={"key": "other"})).json() == {"items": []}


async def test_unknown_columns_are_passed_over_when_it_is_asked_for(client: httpx.AsyncClient) -> None:
    content = b"email,shoe_size\na@example.org,5\n"
    headers = {**CSV, "Idempotency-Key": "columns"}
    refused = await client.post(IMPORTS, content=content, headers=headers)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/header")
    assert "column 2 ('shoe_size')" in refused.json()["errors"][0]["detail"]
    assert "given_name" in refused.json()["detail"]
    taken = await client.post(f"{IMPORTS}?unknown_columns=ignore", content=content, headers=headers)
    assert (taken.status_code, taken.json()["created"]) == (202, 1)


async def test_trimmed_cells_are_found_by_upserts(client: httpx.AsyncClient) -> None:
    await client.post(IMPORTS, content=b"email, external_id\n a@example.org , a \n", headers=CSV)
    response = await client.put(f"{USERS}/by-external-id/a", json={"email": "a@example.org"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (IMPORTS, "text/csv"),
        (IMPORTS, "application/x-ndjson"),
        (f"{USERS}/batch/create", "application/json"),
        (f"{USERS}/batch/find", "application/json"),
        (USERS, "application/json"),
        ("/events", "application/cloudevents+json"),
        ("/", "application/cloudevents-batch+json"),
    ],
)
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
async def test_a_compressed_body_is_refused_everywhere(
    client: httpx.AsyncClient, path: str, content_type: str, encoding: str
) -> None:
    headers = {"Content-Type": content_type, "Content-Encoding": encoding}
    response = await client.post(path, content=b"\x1f\x8b\x08\0", headers=headers)
    expect_problem(response, 415, "unsupported_media_type")
    assert "without Content-Encoding" in response.json()["detail"]


async def test_a_json_array_is_refused_by_name(client: httpx.AsyncClient) -> None:
    response = await client.post(IMPORTS, content=b'[{"email": "a@example.org"}]', headers=NDJSON)
    assert response.status_code == 422
    assert response.json()["errors"][0]["code"] == "json_array"
