"""`GET /docs`: Swagger UI, out of an installed package"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.api import expect_problem
from support.browser import Page, browsing, needs_chromium
from support.process import ServiceProcess, serving
from support.servers import PostgresServer
from support.settings import API_KEY


@pytest.fixture(scope="module")
def service(
    postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    url = postgres.create_database("docs", template=migrated_template)
    with serving(tmp_path_factory.mktemp("docs"), DATABASE_URL=url) as service:
        yield service
    postgres.drop_database("docs")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browsing(tmp_path) as page:
        yield page


async def links(client: httpx.AsyncClient) -> list[str]:
    return re.findall(r'(?:src|href)="(docs/[^"]+)"', (await client.get("/docs")).text)


async def test_the_page_is_asked_for_again_and_its_files_are_not(shared_client: httpx.AsyncClient) -> None:
    page = await shared_client.get("/docs")
    assets = [await shared_client.get(link) for link in await links(shared_client)]

    assert page.headers["cache-control"] == "no-cache"
    assert [asset.status_code for asset in assets] == [200, 200, 200]
    assert {asset.headers["cache-control"] for asset in assets} == {"public, max-age=31536000, immutable"}
    assert {asset.headers["content-type"].partition(";")[0] for asset in assets} == {"text/css", "text/javascript"}


async def test_a_file_of_another_content_is_not_found(shared_client: httpx.AsyncClient) -> None:
    for link in await links(shared_client):
        _, version, name = link.split("/")
        expect_problem(await shared_client.get(f"/docs/{version[::-1]}/{name}"), 404, "not_found")
        expect_problem(await shared_client.get(f"/docs/{version}/{name}x"), 404, "not_found")
        expect_problem(await shared_client.get(f"/docs/{version}/..%2F{name}"), 404, "not_found")


def test_the_package_is_not_imported_with_the_api() -> None:
    code = "import sys, user_service.web.api; print('fastapi_swagger' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


@needs_chromium
def test_the_page_shows_every_operation_and_asks_no_other_host(service: ServiceProcess, page: Page) -> None:
    document = httpx.get(f"{service.url}/openapi.json").json()
    expected = sorted(operation["operationId"] for path in document["paths"].values() for operation in path.values())

    page.open(f"{service.url}/docs")
    page.wait_for(f"document.querySelectorAll('.opblock').length === {len(expected)}")

    shown = page.value("[...document.querySelectorAll('.opblock')].map(block => block.id)")
    assert sorted(name.split("-", 2)[2] for name in shown) == expected
    assert page.complaints() == []
    assert page.hosts() == {service.url.removeprefix("http://")}


@needs_chromium
def test_an_operation_can_be_tried_with_a_key_that_is_not_stored(service: ServiceProcess, page: Page) -> None:
    page.open(f"{service.url}/docs")
    page.wait_for("document.querySelector('.btn.authorize') !== null")
    page.value("document.querySelector('.btn.authorize').click()")
    page.wait_for("document.querySelector('.auth-container input') !== null")
    page.value(
        f"""(() => {{
          const input = document.querySelector(".auth-container input");
          const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
          set.call(input, "{API_KEY}");
          input.dispatchEvent(new Event("input", {{bubbles: true}}));
          document.querySelector(".auth-btn-wrapper .authorize").click();
        }})()"""
    )
    page.value("document.querySelector('.btn-done').click()")
    page.value("document.querySelector('#operations-users-list_users button').click()")
    page.wait_for("document.querySelector('#operations-users-list_users .execute') !== null")
    # Swagger UI loses what is pressed before it has resolved the operation, and shows this animation until then.
    page.wait_for("document.querySelector('#operations-users-list_users .opblock-loading-animation') === null")
    page.value("document.querySelector('#operations-users-list_users .execute').click()")

    page.wait_for(
        "document.querySelector('.live-responses-table tbody .response-col_status')?.innerText.startsWith('200')"
    )

    assert "next_cursor" in page.value("document.querySelector('.live-responses-table').innerText")
    assert page.value("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert page.complaints() == []
