"""Values that try to be more than text, on the admin page."""

import httpx
import pytest

from support.api import create_user, user_url
from support.browser import needs_chromium
from support.visitor import Visitor

pytestmark = needs_chromium
HOSTILE = {
    "markup": "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">",
    "template": "${document.title='taken'}{{7*7}}%3Cscript%3E",
    "override": "\u202eevil\u2066name\u2067",
    "arabic": "محمد بن موسى الخوارزمي",
    "hebrew": "שרה (admin)",
    "long": "W" * 200,
    "combined": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    "quotes": "\"'`;--\\ & < > &amp;",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "link": "javascript:alert(1)",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_name_is_only_text(client: httpx.Client, admin: Visitor, name: str) -> None:
    user = create_user(client, display_name=name, metadata={"note": name[:100]}, external_id=None)
    admin.page.value("location.hash = '#/users?sort=-created_at&columns=name,email,metadata'")
    admin.page.wait_for(f"document.querySelector('tr[data-id=\"{user['id']}\"]') !== null")
    row = admin.page.value(f"document.querySelector('tr[data-id=\"{user['id']}\"] th').textContent")
    assert row == name
    admin.set_width(375)
    assert admin.page.value("document.documentElement.scrollWidth") <= 375

    admin.click_element(f"document.querySelector('tr[data-id=\"{user['id']}\"] th a')")
    admin.sees("Who changed what")
    assert admin.page.value("document.querySelector('h1 bdi').textContent") == name
    assert admin.page.value("document.querySelector('[name=display_name]').value") == name
    assert admin.page.value("document.documentElement.scrollWidth") <= 375
    admin.click("Suspend")
    admin.page.wait_for("document.querySelector('dialog[open]') !== null")
    assert admin.page.value("document.querySelector('dialog bdi').textContent") == name
    assert admin.page.value("document.documentElement.scrollWidth") <= 375
    admin.click("Cancel")

    assert admin.page.value("document.title") == "User Service: user"
    assert admin.page.value("document.querySelectorAll('main script, main img').length") == 0
    assert admin.faults() == []
    assert client.get(user_url(user)).json()["version"] == 1


def test_a_name_does_not_change_the_direction_of_what_stands_beside_it(client: httpx.Client, admin: Visitor) -> None:
    user = create_user(client, display_name="\u202eשרה 123")
    admin.page.value(f"location.hash = '#/user/{user['id']}'")
    admin.sees("Who changed what")

    boxes = admin.page.value(
        "[document.querySelector('h1 bdi'), document.querySelector('h1 .status')]"
        ".map((node) => node.getBoundingClientRect().x)"
    )
    assert boxes[0] < boxes[1]


@pytest.mark.parametrize(
    "address",
    [
        "#/user/../../docs",
        "#/user/%00",
        "#/user/%E0%A4%A",
        "#/user/<script>",
        "#/nowhere",
        "#/users?status=none",
        "#/users?cursor=x",
        "#/users?limit=0&sort=name",
        "#/users?metadata.=1&created_after=never&columns=__proto__,constructor",
        "#/users?__proto__=1&constructor=2",
        "#view",
    ],
)
def test_an_address_that_is_wrong_does_no_harm(admin: Visitor, address: str) -> None:
    admin.page.value(f"location.hash = {address!r}")
    admin.page.wait_for("document.querySelector('main h1') !== null")
    admin.page.wait_for("!document.body.innerText.includes('Loading')")

    assert admin.faults() == []
    admin.click("Users")
    admin.page.wait_for("document.querySelector('[name=status]') !== null")
