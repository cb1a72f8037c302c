"""GET /users by the domain of an address."""

from typing import Any

import httpx
import pytest

from support.api import USERS, expect_fault, make_user, unique_email, user_url


async def found(client: httpx.AsyncClient, **filters: Any) -> list[str]:
    response = await client.get(USERS, params=filters)
    assert response.status_code == 200, response.text
    return [user["id"] for user in response.json()["items"]]


async def test_users_are_found_by_the_domain_of_an_address_or_alias(client: httpx.AsyncClient) -> None:
    ada = await make_user(client, email=unique_email("one.example"))
    bo = await make_user(client, email=unique_email("two.example"), aliases=[unique_email("one.example")])
    await make_user(client, email=unique_email("sub.one.example"))

    assert await found(client, email_domain="one.example") == [ada["id"], bo["id"]]
    assert await found(client, email_domain=" ONE.Example ") == [ada["id"], bo["id"]]
    assert await found(client, email_domain="two.example", limit=1) == [bo["id"]]
    assert await found(client, email_domain="none.example") == []
    assert await found(client, email_domain="one.example", email=bo["email"]) == [bo["id"]]


@pytest.mark.parametrize(
    "spelling", ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example", "bu\u0308cher.example"]
)
async def test_a_domain_is_found_in_any_spelling(client: httpx.AsyncClient, spelling: str) -> None:
    user = await make_user(client, email=unique_email("Bücher.Example"))

    assert await found(client, email_domain=spelling) == [user["id"]]


async def test_a_domain_follows_changes_deletion_restore_and_erasure(client: httpx.AsyncClient) -> None:
    user = await make_user(client, email=unique_email("old.example"))

    await client.patch(user_url(user), json={"email": unique_email("new.example")})
    changed = await found(client, email_domain="old.example"), await found(client, email_domain="new.example")
    await client.delete(user_url(user))
    deleted = await found(client, email_domain="new.example")
    with_deleted = await found(client, email_domain="new.example", include="deleted")
    await client.post(user_url(user, "/restore"))
    restored = await found(client, email_domain="new.example")
    await client.post(user_url(user, "/erase"))

    assert changed == ([], [user["id"]])
    assert (deleted, with_deleted, restored) == ([], [user["id"]], [user["id"]])
    assert await found(client, email_domain="new.example", include="deleted") == []


async def test_many_users_of_batches_and_imports_are_found(client: httpx.AsyncClient) -> None:
    batch = {"items": [{"data": {"email": unique_email("many.example")}} for _ in range(120)]}
    content = "email\n" + "".join(f"{unique_email('many.example')}\n" for _ in range(30))

    await client.post(f"{USERS}/batch/create", json=batch)
    await client.post(f"{USERS}/imports", content=content.encode(), headers={"Content-Type": "text/csv"})

    response = await client.get(USERS, params={"email_domain": "many.example", "count": "true", "fields": "id"})
    exported = await client.get(f"{USERS}/export", params={"email_domain": "many.example"})
    assert response.json()["total"] == 150
    assert len(exported.text.splitlines()) == 150


@pytest.mark.parametrize(
    "domain", ["", "example", "@example.org", "ada@example.org", "example.org.", "a b.example", "10.0.0.1"]
)
async def test_what_is_no_domain_is_refused_with_an_example(shared_client: httpx.AsyncClient, domain: str) -> None:
    fault = expect_fault(await shared_client.get(USERS, params={"email_domain": domain}), "?email_domain")

    assert fault["code"] == "domain"
    assert "example.org" in fault["detail"]
