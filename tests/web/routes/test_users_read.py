"""GET /users/{id}"""

from uuid import uuid4

import httpx
import pytest

from support.api import USERS, expect_fault, expect_problem, make_user, user_url

FRESH = {"Cache-Control": "no-cache"}


@pytest.mark.parametrize("headers", [{}, FRESH], ids=["cache", "database"])
async def test_a_read_gives_the_user_and_its_version(shared_client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    user = await make_user(shared_client)

    response = await shared_client.get(user_url(user), headers=headers)

    assert (response.status_code, response.json()) == (200, user)
    assert response.headers["etag"] == '"1"'
    assert response.headers["cache-control"] == "private, no-cache"


async def test_an_unknown_user_is_not_found(shared_client: httpx.AsyncClient) -> None:
    expect_problem(await shared_client.get(f"{USERS}/{uuid4()}"), 404, "user_not_found")


async def test_a_deleted_user_is_returned_on_request(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)
    await shared_client.delete(user_url(user))

    expect_problem(await shared_client.get(user_url(user)), 404, "user_not_found")
    seen = (await shared_client.get(user_url(user), params={"include": "deleted"})).json()

    assert (seen["status"], seen["version"]) == ("deleted", 2)
    assert seen["deleted_at"] is not None


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', "*", '"7", "1"', ' "1" ', 'W/"3",W/"1"'])
async def test_a_version_that_is_known_already_is_not_sent_again(shared_client: httpx.AsyncClient, tag: str) -> None:
    user = await make_user(shared_client)

    response = await shared_client.get(user_url(user), headers={"If-None-Match": tag})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == '"1"'


@pytest.mark.parametrize("tag", ['"2"', "1", '"01"', "", '"1', "W/", '"*"', "ü"])
async def test_another_version_is_sent(shared_client: httpx.AsyncClient, tag: str) -> None:
    user = await make_user(shared_client)

    response = await shared_client.get(user_url(user), headers=[("If-None-Match", tag.encode("latin-1"))])

    assert (response.status_code, response.json()) == (200, user)


async def test_a_changed_user_is_sent(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)
    await shared_client.patch(user_url(user), json={"given_name": "Ada"})

    response = await shared_client.get(user_url(user), headers={"If-None-Match": '"1"'})

    assert (response.status_code, response.headers["etag"]) == (200, '"2"')


async def test_the_head_of_a_user_is_its_read_without_the_body(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    head, read = await shared_client.head(user_url(user)), await shared_client.get(user_url(user))

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == read.headers["etag"]
    assert head.headers["content-length"] == read.headers["content-length"]


async def test_an_upper_case_id_is_the_same_id(shared_client: httpx.AsyncClient) -> None:
    user = await make_user(shared_client)

    assert (await shared_client.get(f"{USERS}/{user['id'].upper()}")).json() == user


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "null",
        "-" * 36,
        "0123456789abcdef0123456789abcdef",
        "{01234567-89ab-cdef-0123-456789abcde}",
        "urn:uuid:01234567-89ab-cdef-0123-456789abcdef",
        "0_234567-89ab-cdef-0123-456789abcdef",
        "01234567-89ab-cdef-0123-456789abcdeg",
        "01234567-89ab-cdef-0123-456789abcd%20",
        "01234567-89ab-cdef-0123-456789abcd%00",
        "%EF%BC%9001234567-89ab-cdef-0123-456789abcde",
        "..%2Fcache",
        "x" * 4000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_what_is_no_id_is_refused(shared_client: httpx.AsyncClient, text: str, method: str) -> None:
    response = await shared_client.request(method, f"{USERS}/{text}", json={} if method == "PATCH" else None)

    if "%2F" in text:
        expect_problem(response, 404, "not_found")
    else:
        expect_fault(response, "path:user_id")


@pytest.mark.parametrize(
    "query", ["include=", "include=all", "include=Deleted", "includes=deleted", "include=deleted&include=deleted", "x"]
)
async def test_other_parameters_are_refused(shared_client: httpx.AsyncClient, query: str) -> None:
    user = await make_user(shared_client)

    expect_fault(await shared_client.get(f"{user_url(user)}?{query}"), "?" + query.partition("=")[0])


@pytest.mark.parametrize("headers", [{}, {"Cache-Control": "no-cache"}])
async def test_the_query_of_a_read_is_checked_as_that_of_any_route(
    shared_client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    user = await make_user(shared_client)
    for path in (user_url(user), "/api/v1/users"):
        expect_problem(await shared_client.get(f"{path}?include=%FF", headers=headers), 400, "bad_request")
        twice = await shared_client.get(f"{path}?x=1&x=2&include=deleted&include=deleted", headers=headers)
        assert [(fault["pointer"], fault["code"]) for fault in twice.json()["errors"]] == [
            ("?x", "unknown_parameter"),
            ("?include", "repeated_parameter"),
        ]
