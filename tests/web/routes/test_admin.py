"""`GET /admin` and its files."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.api import expect_problem
from support.application import running, started
from support.settings import make_settings
from user_service.app import Application
from user_service.web.static.admin import load_admin_assets


def links(page: httpx.Response) -> list[str]:
    return re.findall(r'(?:src|href)="(admin/[^"]+)"', page.text)


async def test_the_page_is_open_and_lets_in_nothing_else(shared_client: httpx.AsyncClient) -> None:
    page = await shared_client.get("/admin", headers={"X-API-Key": ""})

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


async def test_the_files_of_the_page_are_not_asked_for_again(shared_client: httpx.AsyncClient) -> None:
    page = await shared_client.get("/admin")
    assets = [await shared_client.get(link) for link in links(page)]

    assert len(assets) > 5
    assert {asset.status_code for asset in assets} == {200}
    assert {asset.headers["cache-control"] for asset in assets} == {"public, max-age=31536000, immutable"}
    assert {asset.headers["content-type"] for asset in assets} == {
        "text/css; charset=utf-8",
        "text/javascript; charset=utf-8",
    }


async def test_the_page_names_every_module_that_its_first_view_needs(shared_client: httpx.AsyncClient) -> None:
    """A module that only another one names is fetched a round trip later."""
    linked = {link.rpartition("/")[2] for link in links(await shared_client.get("/admin"))}
    assets = load_admin_assets()
    imported = {
        name for module in linked for name in re.findall(r'from "\./([a-z_]+\.js)"', assets[module].content.decode())
    }

    assert imported <= linked
    assert linked == imported | {"main.js", "style.css"}


async def test_a_file_of_another_version_or_name_is_not_found(shared_client: httpx.AsyncClient) -> None:
    _, version, _ = links(await shared_client.get("/admin"))[0].split("/")

    for path in (
        f"{version[::-1]}/main.js",
        f"{version}/absent.js",
        f"{version}/__init__.py",
        f"{version}/..%2Fmain.js",
    ):
        expect_problem(await shared_client.get(f"/admin/{path}"), 404, "not_found")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, 200),
        ({"admin_page": False}, 404),
        ({"app_env": "production"}, 404),
        ({"app_env": "production", "admin_page": True}, 200),
        ({"serve": "events", "admin_page": True}, 404),
        ({"serve": "api"}, 200),
    ],
)
async def test_the_page_is_there_in_development_and_where_it_is_wanted(
    database_url: str, tmp_path: Path, options: dict[str, object], status: int
) -> None:
    async with running(make_settings(database_url, tmp_path, **options)) as client:
        assert (await client.get("/admin")).status_code == status


async def test_the_first_list_is_prepared_when_the_page_asks_how_to_sign_in(application: Application) -> None:
    async with started(application) as client:
        services = application.resources.services
        assert services is not None
        assert (await client.get("/admin")).status_code == 200
        before = services.database.search.task
        assert (await client.get("/admin/sign-in", headers={"X-API-Key": ""})).status_code == 200
        assert services.database.search.task is not None
        await services.database.search.get()

    assert before is None


def test_nothing_is_read_or_loaded_before_the_page_is_asked_for() -> None:
    code = (
        "import sys, user_service.web.api; from user_service.web.static.admin import load_admin_assets;"
        "print(load_admin_assets.cache_info().currsize + ('user_service.security.oidc_discovery' in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "0"
