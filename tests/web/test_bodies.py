"""Malformed request bodies."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from support.api import USERS, expect_problem, make_user, unique_email, user_url

JSON = {"Content-Type": "application/json"}
LIMIT = 256 * 1024


async def post(client: httpx.AsyncClient, body: bytes, content_type: str = "application/json") -> httpx.Response:
    return await client.post(USERS, content=body, headers={"Content-Type": content_type})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"email=ada@example.org",
        b"{'email': 1}",
        b'{"email": "a@example.org",}',
        b'{"email": "a@example.org"} {}',
        b'{"given_name": "\\ud800"}',
        b'{"given_name": "\\udc00\\ud800"}',
        b'{"given_name": "\xed\xa0\x80"}',
        b'{"given_name": "\xff"}',
        b'{"given_name": "\x00"}',
        b'\xef\xbb\xbf{"email": "a@example.org"}',
        '{"email": "a@example.org"}'.encode("utf-16"),
        b'{"metadata": {"x": NaN}}',
        b'{"metadata": {"x": -Infinity}}',
        b'{"metadata": {"x": 1e400}}',
        b'{"preferences": {"x": -1e999}}',
        b'{"metadata": {"x": 0123}}',
        b'{"metadata": {"x": 0x10}}',
        b"9" * 5000,
        b"[" * 100_000,
        b'{"a":' * 30_000,
        b"\0",
        b" ",
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_what_is_no_json_is_malformed(shared_client: httpx.AsyncClient, body: bytes) -> None:
    expect_problem(await post(shared_client, body), 400, "malformed_json")


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"true", b"7", b"1.5", b'"ada"', b"[]", b'[{"email":"a@example.org"}]', b"[" * 500 + b"]" * 500],
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_a_body_must_be_an_object(shared_client: httpx.AsyncClient, body: bytes, method: str) -> None:
    user = await make_user(shared_client)
    path = {"POST": USERS, "PATCH": user_url(user), "PUT": f"{USERS}/by-external-id/x"}[method]

    response = await shared_client.request(method, path, content=body, headers=JSON)

    assert [fault["pointer"] for fault in expect_problem(response, 422, "validation_failed")["errors"]] == [""]


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/merge-patch+json",
        "application/jsonp",
        "application/vnd.api+json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; charset=latin-1",
        'application/json; note="; charset=utf-8"; charset=latin-1',
        "application/json, text/plain",
        "json",
        "*/*",
    ],
)
async def test_other_content_types_are_refused(shared_client: httpx.AsyncClient, content_type: str) -> None:
    response = await post(shared_client, b'{"email": "ada@example.org"}', content_type)

    problem = expect_problem(response, 415, "unsupported_media_type")
    assert "application/json" in problem["detail"]


async def test_two_content_types_are_refused(shared_client: httpx.AsyncClient) -> None:
    lines = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    response = await shared_client.post(USERS, content=b"{}", headers=lines)

    expect_problem(response, 415, "unsupported_media_type")


async def test_a_missing_content_type_is_refused(shared_client: httpx.AsyncClient) -> None:
    response = await shared_client.post(USERS, content=b"{}")

    assert "content-type" not in response.request.headers
    expect_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
async def test_compressed_bodies_are_refused(shared_client: httpx.AsyncClient, coding: str) -> None:
    response = await shared_client.post(USERS, content=b"\x1f\x8b", headers=JSON | {"Content-Encoding": coding})

    expect_problem(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json;charset=utf-8",
        'Application/JSON; Charset="UTF-8"',
        "application/json;",
        " application/json ",
        "application/json; charset=utf-8;",
        "application/json; ; charset = utf8 ;",
        "application/json; charset=us-ascii",
        "application/json; version=2",
        'application/json; profile="https://example.org/a;charset=latin-1"; charset=utf-8',
        "application/json; odata.metadata=minimal; q",
    ],
)
async def test_spellings_of_the_content_type_will_do(shared_client: httpx.AsyncClient, content_type: str) -> None:
    response = await post(shared_client, f'{{"email": "{unique_email()}"}}'.encode(), content_type)

    assert response.status_code == 201


async def test_a_body_over_the_limit_is_refused(shared_client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1024 + 1):
            yield b" " * 1024

    for body in (b" " * (LIMIT + 1), endless()):
        response = await shared_client.post(USERS, content=body, headers=JSON)
        assert "262,144" in expect_problem(response, 413, "payload_too_large")["detail"]


async def test_a_body_at_the_limit_is_read(shared_client: httpx.AsyncClient) -> None:
    body = f'{{"email": "{unique_email()}"}}'.encode()

    assert (await post(shared_client, body + b" " * (LIMIT - len(body)))).status_code == 201


@pytest.mark.parametrize("field", ["metadata", "preferences"])
async def test_objects_at_their_limit_are_stored(shared_client: httpx.AsyncClient, field: str) -> None:
    many = {f"k{number}": number for number in range(1250)}
    full = {"x": "é" * ((16 * 1024 - 8) // 2)}

    for value in (many, full):
        user = await make_user(shared_client, **{field: value})
        assert (await shared_client.get(user_url(user), headers={"Cache-Control": "no-cache"})).json()[field] == value
        await shared_client.delete(user_url(user, "?purge=true"))


@pytest.mark.parametrize(("depth", "status"), [(31, 201), (32, 422), (200, 422), (900, 422)])
async def test_preferences_may_be_nested_so_deep(shared_client: httpx.AsyncClient, depth: int, status: int) -> None:
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    body = b'{"email": "%s", "preferences": {"a": %s}}' % (unique_email().encode(), nested)

    assert (await post(shared_client, body)).status_code == status


@pytest.mark.parametrize(
    "number", ["0", "-0.0", "1e22", "1.7976931348623157e308", "5e-324", "18446744073709551615", "0.1"]
)
@pytest.mark.parametrize("field", ["metadata", "preferences"])
async def test_numbers_come_back_as_they_are(shared_client: httpx.AsyncClient, number: str, field: str) -> None:
    body = f'{{"email": "{unique_email()}", "{field}": {{"x": {number}}}}}'.encode()

    made = (await post(shared_client, body)).json()
    stored = (await shared_client.get(user_url(made), headers={"Cache-Control": "no-cache"})).json()

    assert made[field]["x"] == stored[field]["x"] == json.loads(number)
    assert type(made[field]["x"]) is type(stored[field]["x"])


async def test_many_faults_are_reported_up_to_a_hundred(shared_client: httpx.AsyncClient) -> None:
    response = await shared_client.post(USERS, json={f"field-{number}": 1 for number in range(15_000)})

    assert len(expect_problem(response, 422, "validation_failed")["errors"]) == 100


async def test_a_body_where_none_belongs_is_ignored(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    response = await shared_client.post(user_url(user, "/suspend"), content=b"{", headers=JSON)

    assert response.status_code == 200
