"""Spellings that other programs write are taken; an error of form shows how the value is written"""

from typing import Any

import httpx
import pytest

from support.api import USERS, expect_fault, make_user, unique_email, user_url


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("en_US", "en-US"),
        ("zh_Hant_TW", "zh-Hant-TW"),
        ("de_DE_1996", "de-DE-1996"),
        ("i-klingon", "i-klingon"),
        ("I_Klingon", "I-Klingon"),
        ("en-GB-oed", "en-GB-oed"),
        ("sgn-BE-FR", "sgn-BE-FR"),
        ("art-lojban", "art-lojban"),
        ("zh-min-nan", "zh-min-nan"),
        ("X-private", "X-private"),
    ],
)
async def test_a_locale_is_taken_as_programs_write_it(
    shared_client: httpx.AsyncClient, given: str, stored: str
) -> None:
    user = await make_user(shared_client, locale=given)
    patched = await shared_client.patch(user_url(user), json={"locale": given})

    assert (user["locale"], patched.json()["locale"], patched.json()["version"]) == (stored, stored, 1)


@pytest.mark.parametrize(
    ("field", "value", "example"),
    [
        ("email", "ada", "ada@example.org"),
        ("phone", "0207", "+442071838750"),
        ("locale", "English (GB)", "en-GB"),
        ("timezone", "London", "Europe/London"),
    ],
)
async def test_an_error_of_form_in_a_body_has_an_example(
    shared_client: httpx.AsyncClient, field: str, value: str, example: str
) -> None:
    body: dict[str, Any] = {"email": unique_email(), field: value}

    assert example in expect_fault(await shared_client.post(USERS, json=body), f"/{field}")["detail"]


@pytest.mark.parametrize(
    ("query", "parameter", "example"),
    [
        ("?created_after=yesterday", "created_after", "2026-01-31T12:00:00Z"),
        ("?limit=many", "limit", "50"),
        ("?email=ada", "email", "ada@example.org"),
    ],
)
async def test_an_error_of_form_in_a_query_has_an_example(
    shared_client: httpx.AsyncClient, query: str, parameter: str, example: str
) -> None:
    fault = expect_fault(await shared_client.get(USERS + query), f"?{parameter}")

    assert example in fault["detail"]
    assert "%2B" not in fault["detail"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("?email=ada+news@example.org", "email"),
        ("?created_after=2026-01-31T12:00:00+00:00", "created_after"),
        ("?updated_after=2026-01-31T12:00:00+02:00", "updated_after"),
        ("?limit=+5", "limit"),
    ],
)
async def test_a_bare_plus_in_a_query_is_explained(
    shared_client: httpx.AsyncClient, query: str, parameter: str
) -> None:
    fault = expect_fault(await shared_client.get(USERS + query), f"?{parameter}")
    encoded = await shared_client.get(USERS + query.replace("+", "%2B"))

    assert "%2B" in fault["detail"]
    assert "ada" not in fault["detail"].replace("ada@example.org", "")
    assert parameter == "limit" or encoded.status_code == 200


async def test_a_space_is_not_explained_as_a_plus(shared_client: httpx.AsyncClient) -> None:
    fault = expect_fault(await shared_client.get(f"{USERS}?email=ada%20news@example.org"), "?email")

    assert "%2B" not in fault["detail"]
