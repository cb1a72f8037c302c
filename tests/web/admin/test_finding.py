"""Finding users on the admin page."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import create_user, unique_email, user_url
from support.browser import needs_chromium
from support.settings import API_KEY
from support.visitor import Visitor

pytestmark = needs_chromium


def a_word() -> str:
    return "Q" + uuid4().hex[:10].translate(str.maketrans("0123456789", "ghijklmnop"))


def a_phone() -> str:
    return f"+49{uuid4().int % 10**10:010d}"


@pytest.mark.parametrize(
    ("field", "make", "spell"),
    [
        ("email", unique_email, str),
        ("email", unique_email, str.upper),
        ("given_name", a_word, str),
        ("username", a_word, str.lower),
        ("external_id", a_word, str),
        ("phone", a_phone, str),
        ("phone", a_phone, lambda phone: f"00{phone[1:4]} {phone[4:]}"),
    ],
)
def test_one_user_is_found_by(client: httpx.Client, admin: Visitor, field: str, make: Any, spell: Any) -> None:
    value = make()
    user = create_user(client, **{field: value})

    admin.write(spell(value))
    admin.press("Enter")

    admin.arrives_at(f"/admin#/user/{user['id']}")
    admin.sees("Who changed what")
    assert admin.actions == 2
    assert admin.faults() == []


def test_a_user_is_found_by_its_id(client: httpx.Client, admin: Visitor) -> None:
    user = create_user(client)

    admin.write(user["id"])
    admin.press("Enter")

    admin.sees(user["email"])


def test_metadata_selects_a_list_with_an_address(client: httpx.Client, admin: Visitor) -> None:
    plan = a_word()
    users = [create_user(client, metadata={"plan": plan}) for _ in range(2)]

    admin.write(f"plan={plan}")
    admin.press("Enter")

    admin.arrives_at(f"#/users?metadata.plan={plan}")
    admin.sees("2 users")
    for user in users:
        admin.sees(user["email"])


def test_several_users_are_a_list_whose_address_does_not_say_what_was_typed(
    client: httpx.Client, admin: Visitor
) -> None:
    name = a_word()
    users = [create_user(client, family_name=name) for _ in range(3)]

    admin.write(name)
    admin.press("Enter")

    admin.arrives_at("#/users?found=search")
    admin.sees("3 users")
    for user in users:
        admin.sees(user["email"])


def test_the_domain_finds_all_who_have_an_address_there(client: httpx.Client, admin: Visitor) -> None:
    domain = f"{a_word()}.example".lower()
    for _ in range(2):
        create_user(client, email=unique_email(domain))

    admin.write(f"@{domain}")
    admin.press("Enter")

    admin.sees("2 users")


def test_a_username_that_is_also_a_name_leads_to_the_one_and_shows_the_others(
    client: httpx.Client, admin: Visitor
) -> None:
    word = a_word()
    exact = create_user(client, username=word, display_name="The one")
    other = create_user(client, given_name=word)

    admin.write(word)
    admin.press("Enter")

    admin.sees("With exactly this key: The one")
    admin.sees(other["email"])
    admin.click("The one")
    admin.arrives_at(exact["id"])
    admin.sees("Who changed what")


@pytest.mark.parametrize("field", ["email", "username", "external_id", "family_name"])
def test_a_deleted_user_is_found_where_no_other_is(client: httpx.Client, admin: Visitor, field: str) -> None:
    value = unique_email() if field == "email" else a_word()
    user = create_user(client, **{field: value})
    client.delete(user_url(user))

    admin.write(value)
    admin.press("Enter")

    admin.sees("Who changed what")
    assert "deleted" in admin.text("h1")


def test_what_no_user_has_finds_nobody_and_says_what_to_do(admin: Visitor) -> None:
    for text in ("nobody@example.org", "no body", "+491", "@", "a@", "%00", "key=", "💥", "x" * 255):
        admin.enter("Find users by", text)
        admin.press("Enter")
        admin.sees(f"Found for {text}.")
        admin.sees("No user matches. Search for another text, or take a filter away.")
    assert admin.faults() == []


def test_a_link_to_a_search_says_that_the_text_is_not_in_it(admin: Visitor) -> None:
    admin.page.value("location.hash = '#/users?found=search'; location.reload()")
    admin.sign_in(API_KEY)

    admin.sees("The text of a search is kept on the page only, not in its address: search again.")
