"""GET /users, filtered"""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from support.api import USERS, expect_fault, make_user, unique_email, user_url

pytestmark = pytest.mark.distributed


async def found(client: httpx.AsyncClient, **filters: Any) -> list[str]:
    response = await client.get(USERS, params=filters)
    assert response.status_code == 200, response.text
    return [user["id"] for user in response.json()["items"]]


@pytest.mark.parametrize("spell", [str, str.upper, str.title, lambda email: f"  {email}\t"])
async def test_an_email_is_found_in_any_spelling(client: httpx.AsyncClient, spell: Any) -> None:
    await make_user(client)
    user = await make_user(client, email="Ada.Lovelace@Example.org")

    assert await found(client, email=spell(user["email"])) == [user["id"]]
    assert await found(client, email="ada.lovelace+x@example.org") == []


async def test_an_external_id_is_found_exactly(client: httpx.AsyncClient) -> None:
    user = await make_user(client, external_id="CRM/1&2")

    assert await found(client, external_id="CRM/1&2") == [user["id"]]
    assert await found(client, external_id="crm/1&2") == []


@pytest.mark.parametrize("status", ["pending", "active", "suspended", "deleted"])
async def test_a_status_is_found(client: httpx.AsyncClient, status: str) -> None:
    users = {name: await make_user(client, status=name) for name in ("pending", "active", "suspended")}
    users["deleted"] = await make_user(client)
    await client.delete(user_url(users["deleted"]))

    assert await found(client, status=status) == [users[status]["id"]]


async def test_deleted_users_are_listed_on_request(client: httpx.AsyncClient) -> None:
    alive, gone = await make_user(client), await make_user(client, email="gone@example.org", external_id="gone")
    await client.delete(user_url(gone))
    again = await make_user(client, email="gone@example.org", external_id="gone")

    assert await found(client) == [alive["id"], again["id"]]
    assert await found(client, include="deleted") == [alive["id"], gone["id"], again["id"]]
    for filters in ({"email": "gone@example.org"}, {"external_id": "gone"}):
        assert await found(client, **filters) == [again["id"]]
        assert await found(client, **filters, include="deleted") == [gone["id"], again["id"]]
        assert await found(client, **filters, status="deleted") == [gone["id"]]


NAMES = {"given_name": "José María", "family_name": "O'Neill-Straße", "display_name": "Pepe (42) Ⅷ"}


@pytest.mark.parametrize(
    "q",
    ["jose\u0301", "JOSÉ", "maría josé", "o neill", "O'NEILL", "strasse", "STRASSE josé", "42", "pepe viii", " pepe "],
)
async def test_names_are_found_by_whole_words_in_any_case_and_form(client: httpx.AsyncClient, q: str) -> None:
    await make_user(client, given_name="Josefa")
    user = await make_user(client, **NAMES)

    assert await found(client, q=q) == [user["id"]]


@pytest.mark.parametrize("q", ["jos", "ose", "josé other", "", "   ", "'", "\0", "example", "%", "🧮", "𓀀"])
async def test_parts_of_words_and_other_words_find_no_user(client: httpx.AsyncClient, q: str) -> None:
    await make_user(client, **NAMES)

    assert await found(client, q=q) == []


async def test_a_changed_name_is_found_by_its_new_words_only(client: httpx.AsyncClient) -> None:
    user = await make_user(client, given_name="Ada Byron", display_name="Ada")
    await client.patch(user_url(user), json={"given_name": "Augusta King"})

    assert await found(client, q="byron") == []
    for q in ("augusta", "king", "ada"):
        assert await found(client, q=q) == [user["id"]]


async def test_time_bounds_leave_out_the_moment_itself_and_end_before_it(client: httpx.AsyncClient) -> None:
    users = [await make_user(client) for _ in range(3)]
    middle = users[1]["created_at"]

    assert await found(client, created_after=middle) == [users[2]["id"]]
    assert await found(client, created_before=middle) == [users[0]["id"]]
    assert await found(client, created_after=users[0]["created_at"], created_before=users[2]["created_at"]) == [
        users[1]["id"]
    ]
    changed = (await client.patch(user_url(users[0]), json={"locale": "fr"})).json()
    assert await found(client, updated_after=users[2]["updated_at"]) == [users[0]["id"]]
    assert await found(client, updated_after=changed["updated_at"]) == []


async def test_time_bounds_know_offsets(client: httpx.AsyncClient) -> None:
    user = await make_user(client)
    before = (datetime.now(UTC) - timedelta(minutes=1)).isoformat().replace("+00:00", "")
    shifted = (datetime.fromisoformat(before) + timedelta(hours=5, minutes=30)).isoformat() + "+05:30"

    for moment in (f"{before}Z", shifted, f"{before}z"):
        assert await found(client, created_after=moment, updated_after=moment) == [user["id"]]
        assert await found(client, created_before=moment) == []


EXTREMES = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59.999999Z"]
LATE = ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.999999+00:00"]


@pytest.mark.parametrize("name", ["created_after", "created_before", "updated_after"])
@pytest.mark.parametrize("moment", EXTREMES + LATE)
async def test_time_bounds_at_the_ends_of_time_will_do(client: httpx.AsyncClient, name: str, moment: str) -> None:
    user = await make_user(client)

    assert await found(client, **{name: moment}) == (
        [user["id"]] if (moment in LATE) == (name == "created_before") else []
    )


@pytest.mark.parametrize("name", ["created_after", "created_before", "updated_after"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "1767225600",
        "1767225600.5",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:00:00+25:00",
        "2026-01-31T12:00:00Z\0",
        "infinity",
        "10000-01-01T00:00:00Z",
    ],
)
async def test_other_times_are_refused(shared_client: httpx.AsyncClient, name: str, text: str) -> None:
    assert "RFC 3339" in expect_fault(await shared_client.get(USERS, params={name: text}), f"?{name}")["detail"]


SCALARS = [
    ("pro", "pro"),
    ("", ""),
    ("ä b&c=d", "ä b&c=d"),
    ("true", "true"),
    (True, "true"),
    (False, "false"),
    (None, "null"),
    (3, "3"),
    (-7, "-7"),
    (0.5, "0.5"),
    (1e-7, "1e-7"),
    (2**53 + 1, str(2**53 + 1)),
    (2**64 - 1, str(2**64 - 1)),
    (-(2**63), str(-(2**63))),
    (1e16, "10000000000000000"),
    (1e300, "1e+300"),
    (-0.0, "0.0"),
]


@pytest.mark.parametrize(("value", "text"), SCALARS)
async def test_metadata_of_every_kind_is_found(client: httpx.AsyncClient, value: object, text: str) -> None:
    await make_user(client, metadata={"other": value, "key": "another"})
    user = await make_user(client, metadata={"key": value})

    assert await found(client, **{"metadata.key": text}) == [user["id"]]


@pytest.mark.parametrize(("value", "text"), SCALARS)
async def test_metadata_that_changed_is_not_found_any_more(client: httpx.AsyncClient, value: object, text: str) -> None:
    user = await make_user(client, metadata={"key": value})

    await client.patch(user_url(user), json={"metadata": {"key": "changed"}})

    assert await found(client, **{"metadata.key": text}) == []
    assert await found(client, **{"metadata.key": "changed"}) == [user["id"]]


async def test_any_key_may_be_asked_for(client: httpx.AsyncClient) -> None:
    for key in ("a.b", "metadata.a", "ä", "a b", "limit", "q[]", "%", "a\nb"):
        user = await make_user(client, metadata={key: "v"})
        assert await found(client, **{f"metadata.{key}": "v"}) == [user["id"]]
    assert await found(client, **{"metadata.a\0b": "v"}) == []


async def test_filters_work_together_in_every_order(client: httpx.AsyncClient) -> None:
    wanted = {"given_name": "Ada", "family_name": "King", "status": "pending", "metadata": {"plan": "pro", "seats": 3}}
    users = [await make_user(client, **wanted, external_id=unique_email()) for _ in range(2)]
    for less in ({"given_name": "Eve"}, {"status": "active"}, {"metadata": {"plan": "pro", "seats": 4}}):
        await make_user(client, **(wanted | less))
    gone = await make_user(client, **wanted)
    await client.delete(user_url(gone))
    filters = {
        "q": "king ada",
        "status": "pending",
        "metadata.plan": "pro",
        "metadata.seats": "3",
        "created_after": "2020-01-01T00:00:00Z",
        "created_before": "2120-01-01T00:00:00Z",
        "updated_after": "2020-01-01T00:00:00Z",
    }
    ids = [user["id"] for user in users]

    for order in ("created_at", "updated_at"):
        assert await found(client, **filters, sort=order) == ids
        assert await found(client, **filters, sort=f"-{order}") == ids[::-1]
        one = {"email": users[0]["email"], "external_id": users[0]["external_id"]}
        assert await found(client, **filters, **one, sort=order) == ids[:1]
        assert await found(client, **(filters | {"status": "deleted"}), sort=order) == [gone["id"]]
        assert await found(client, **filters, include="deleted", sort=order) == ids


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("page=2", "page"),
        ("Limit=2", "Limit"),
        ("metadata=x", "metadata"),
        ("metadata.=x", "metadata."),
        ("metadata[plan]=x", "metadata[plan]"),
        ("q=a&q=b", "q"),
        ("metadata.a=1&metadata.a=2", "metadata.a"),
        ("status=living", "status"),
        ("status=", "status"),
        ("include=all", "include"),
        ("email=ada", "email"),
        ("email=", "email"),
        ("external_id=", "external_id"),
        ("external_id=%00", "external_id"),
        ("external_id=" + "x" * 256, "external_id"),
        ("q=" + "x" * 201, "q"),
        ("cursor=" + "x" * 201, "cursor"),
    ],
)
async def test_other_parameters_and_values_are_refused(shared_client: httpx.AsyncClient, query: str, name: str) -> None:
    expect_fault(await shared_client.get(f"{USERS}?{query}"), f"?{name}")


@pytest.mark.parametrize("text", ["!", "", " ", "\0", "…"])
async def test_a_text_without_a_word_selects_no_user_beside_other_filters(client: httpx.AsyncClient, text: str) -> None:
    user = await make_user(client, given_name="Ada", metadata={"plan": "pro"})

    assert await found(client, q=text, **{"metadata.plan": "pro"}) == []
    assert await found(client, q="ada", **{"metadata.plan": "pro"}) == [user["id"]]
