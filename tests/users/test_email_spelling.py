"""One address, many spellings: the same user in every one of them"""

import httpx
import pytest

from support.api import USERS, expect_fault, expect_problem, make_user

SAME = {
    "ada@example.org": ["ADA@EXAMPLE.ORG", " ada@example.org\n", "ada@ｅｘａｍｐｌｅ.org", "\u2003Ada@Example.Org"],
    "ada@bücher.example": ["ada@xn--bcher-kva.example", "ADA@BÜCHER.EXAMPLE", "ada@bu\u0308cher.example"],
    "zoë@example.org": ["zoe\u0308@example.org", "ZOË@example.org", "ZOE\u0308@EXAMPLE.ORG"],
    "straße@example.org": ["STRASSE@example.org", "strasse@example.org", "STRAẞE@example.org"],
    "kelvin@example.org": ["\u212aelvin@example.org"],
    "ﬁnn@example.org": ["finn@example.org", "FINN@example.org"],
    "σίσυφος@example.org": ["ΣΊΣΥΦΟΣ@example.org", "σίσυφοσ@example.org"],
    "o'neil+tag@example.org": ["O'Neil+Tag@example.org"],
    "ada@日本.example": ["ada@xn--wgv71a.example"],
    # Persian and Sinhala need joiners between letters.
    "ada@نامه\u200cای.example": ["ada@xn--mgba3gch31f060k.example", " ADA@نامه\u200cای.EXAMPLE"],
    "zoë@ශ්\u200dරී.example": ["zoë@xn--10cl1a0b660p.example"],
}
DIFFERENT = [
    "ada@example.org",
    "a.da@example.org",
    "ada+1@example.org",
    "ada@example.com",
    "ada@www.example.org",
    "аda@example.org",
    "ada_@example.org",
    "adä@example.org",
]
REFUSED = [
    "ada@example.org\0",
    "ada\0@example.org",
    "a\ud7ffda@@example.org",
    "ada@exa\u200bmple.org.",
    "ada@exa\u200dmple.org",
    "ada@exa\u200cmple.org",
    "ada@ශ්\u200dරී",
    "ada@ශ්\u200dරී.example.",
    "a da@ශ්\u200dරී.example",
    "ada@-example.org",
    "ada@example-.org",
    "ada@example..org",
    ".ada@example.org",
    "ada.@example.org",
    "a..da@example.org",
    "ada@[127.0.0.1]",
    "ada@[IPv6:::1]",
    "ada@127.0.0.1",
    '"ada lovelace"@example.org',
    "ada@xn--.org",
    "ada@xn--a.org",
    "ada@xn--bcher-kva8445foa.org",
    "Ada <ada@example.org>",
    "ada@example.org,eve@example.org",
    "ada@example.org\r\nBcc: eve@example.org",
    "x" * 65 + "@example.org",
    "ada@" + "x" * 64 + ".org",
    "ada@" + "x." * 130 + "org",
    "ada@example.org" + "g" * 1100,
    "ü" * 300 + "@example.org",
    "ada＠example.org",
]


@pytest.mark.parametrize(("email", "spelling"), [(email, other) for email, others in SAME.items() for other in others])
async def test_another_spelling_is_the_same_address(client: httpx.AsyncClient, email: str, spelling: str) -> None:
    user = await make_user(client, email=email)

    expect_problem(await client.post(USERS, json={"email": spelling}), 409, "email_taken")
    assert (await client.get(USERS, params={"email": spelling})).json()["items"] == [user]


async def test_other_addresses_are_other_users(client: httpx.AsyncClient) -> None:
    users = [await make_user(client, email=email) for email in DIFFERENT]

    for email, user in zip(DIFFERENT, users, strict=True):
        assert (await client.get(USERS, params={"email": email})).json()["items"] == [user]


@pytest.mark.parametrize("email", REFUSED, ids=lambda email: ascii(email)[:40])
async def test_what_is_no_address_is_refused_without_repeating_it(shared_client: httpx.AsyncClient, email: str) -> None:
    response = await shared_client.post(USERS, json={"email": email})

    assert email not in expect_fault(response, "/email")["detail"]
    expect_fault(await shared_client.get(USERS, params={"email": email}), "?email")


async def test_the_shown_address_is_trimmed_with_its_domain_in_ascii(shared_client: httpx.AsyncClient) -> None:
    made = [
        (await make_user(shared_client, email=email))["email"]
        for email in (" Grace.Hopper@Navy.EXAMPLE ", "Grace@BÜCHER.example", "zoe\u0308@navy.example")
    ]

    assert made == ["Grace.Hopper@navy.example", "Grace@xn--bcher-kva.example", "zoë@navy.example"]


async def test_the_longest_address_is_taken(shared_client: httpx.AsyncClient) -> None:
    longest = "x" * 64 + "@" + ".".join(["y" * 61, "y" * 61, "y" * 61, "ex"])
    assert len(longest) == 253

    await make_user(shared_client, email=longest)
    expect_fault(await shared_client.post(USERS, json={"email": longest + "ab"}), "/email")
