"""`Location` and `Link` are relative references, which are right behind any prefix"""

from urllib.parse import urljoin
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, make_user, unique_email, user_url

PREFIXES = ["https://users.example", "https://api.example/prod", "https://api.example/a/b/c"]


def expect_reference(reference: str, path: str, target: str) -> None:
    """Asserts that a reference in the response to `path` leads to `target` behind every prefix."""
    for prefix in PREFIXES:
        assert urljoin(prefix + path, reference) == prefix + target


async def test_a_new_user_is_where_location_leads(shared_client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    body = {"email": unique_email()}

    for _ in ("first", "replayed"):
        made = await shared_client.post(USERS, json=body, headers=key)
        expect_reference(made.headers["location"], USERS, user_url(made.json()))
    assert made.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("name", ["row-1", "a%2Fb", "a/b", "a%20b", "%C3%BC", "a:b", "batch", "x/../y"])
async def test_an_upserted_user_is_where_location_leads(client: httpx.AsyncClient, name: str) -> None:
    path = f"{USERS}/by-external-id/{name}"
    # httpx would resolve the dots itself.
    request = client.build_request("PUT", USERS, json={"email": unique_email()})
    request.url = request.url.copy_with(raw_path=path.encode())

    made = await client.send(request)

    assert made.status_code == 201, made.text
    if ".." not in name:
        expect_reference(made.headers["location"], path, user_url(made.json()))


async def test_an_import_is_where_location_leads(client: httpx.AsyncClient) -> None:
    csv = {"Content-Type": "text/csv"}
    path = f"{USERS}/imports"

    made = await client.post(path, content=b"email\nada@example.org\n", headers=csv)

    expect_reference(made.headers["location"], path, f"{path}/{made.json()['id']}")


async def test_a_link_leads_to_the_next_page(client: httpx.AsyncClient) -> None:
    user, *_ = [await make_user(client) for _ in range(3)]
    await client.post(user_url(user, "/login"))

    for path in (USERS, user_url(user, "/audit")):
        page = await client.get(path, params={"limit": 1})
        link = page.links["next"]["url"]
        expect_reference(link, f"{path}?limit=1", f"{path}?limit=1&cursor={page.json()['next_cursor']}")


async def test_no_response_names_an_absolute_address(client: httpx.AsyncClient) -> None:
    made = await client.post(USERS, json={"email": unique_email()})

    assert not made.headers["location"].startswith(("/", "http"))
