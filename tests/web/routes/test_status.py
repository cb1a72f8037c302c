"""`GET /api/v1/status`, and the page that shows it."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, user_url
from support.browser import Page, browsing, needs_chromium
from support.load import put_load
from support.process import ServiceProcess, serving
from support.servers import PostgresServer
from support.settings import API_KEY
from user_service import __version__


@pytest.fixture(scope="module")
def service(
    postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    url = postgres.create_database("status", template=migrated_template)
    with serving(tmp_path_factory.mktemp("status"), DATABASE_URL=url, APP_ENV="production") as service:
        with service.client() as client:
            put_load(client)
        yield service
    postgres.drop_database("status")


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browsing(tmp_path) as page:
        yield page


def test_the_status_says_how_the_parts_are(client: httpx.Client) -> None:
    status = client.get("/api/v1/status").json()

    assert (status["status"], status["checks"]) == ("ok", {"database": "ok"})
    assert status["versions"]["service"] == __version__
    assert all(status["versions"].values())
    assert status["cache"]["tier"] == "memory"
    assert status["cache"]["hit_ratio"] > 0
    assert 0 < status["database"]["open"] <= status["database"]["limit"]
    assert status["outbox"]["pending"] > 0


def test_the_status_says_how_far_the_feed_is(client: httpx.Client) -> None:
    page = client.get(f"{USERS}/changes", params={"limit": 1000}).json()

    feed = client.get("/api/v1/status").json()["feed"]

    assert feed == {"last_position": len(page["items"]), "waiting": 0, "oldest_seconds": None}


def test_the_status_counts_requests_by_route(client: httpx.Client) -> None:
    def answered() -> int:
        routes = client.get("/api/v1/status").json()["requests"]["routes"]
        (count,) = (r["answered"] for r in routes if (r["method"], r["route"]) == ("GET", f"{USERS}/{{user_id}}"))
        return int(count)

    path = user_url(create_user(client))
    before = answered()
    for _ in range(3):
        client.get(path)

    assert answered() == before + 3


def test_the_last_minute_has_a_pace(client: httpx.Client) -> None:
    client.get(user_url(create_user(client)))

    requests = client.get("/api/v1/status").json()["requests"]
    pace = requests["last_minute"]

    assert requests["in_flight"] == 1
    assert pace["per_second"] > 0
    assert 0 < pace["p50_milliseconds"] <= pace["p95_milliseconds"] <= pace["p99_milliseconds"]


def test_a_batch_stands_in_the_status_with_its_failures(client: httpx.Client) -> None:
    items = [{"data": {"email": f"{uuid4().hex}@example.org"}}, {"data": {"email": "none"}}]
    client.post(f"{USERS}/batch/create", json={"items": items})

    job = client.get("/api/v1/status").json()["jobs"][0]

    facts = {name: job[name] for name in ("kind", "operation", "state", "total", "done", "failed")}
    assert facts == {
        "kind": "batch",
        "operation": "create",
        "state": "partial",
        "total": 2,
        "done": 2,
        "failed": 1,
    }


def test_an_import_stands_in_the_status(client: httpx.Client) -> None:
    records = "".join(f'{{"email": "{uuid4().hex}@example.org"}}\n' for _ in range(3)) + '{"email": "none"}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    assert client.post(f"{USERS}/imports", content=records, headers=headers).status_code == 202

    jobs = client.get("/api/v1/status").json()["jobs"]
    (job,) = (job for job in jobs if job["kind"] == "import")

    assert (job["operation"], job["state"], job["done"], job["total"], job["failed"]) == (
        "ndjson",
        "completed",
        4,
        4,
        1,
    )


@pytest.mark.parametrize("headers", [{"X-API-Key": ""}, {"X-API-Key": "wrong"}])
def test_the_status_is_for_those_with_a_key(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.get("/api/v1/status", headers=headers).status_code == 401


def test_the_page_itself_is_open_and_lets_in_nothing_else(client: httpx.Client) -> None:
    response = client.get("/status", headers={"X-API-Key": ""})

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_status_lives_without_its_database(own_postgres: PostgresServer, tmp_path: Path) -> None:
    from user_service.postgres.migrations import upgrade

    url = own_postgres.create_database("status")
    upgrade(url)
    with serving(tmp_path, DATABASE_URL=url, APP_ENV="production") as service, service.client() as client:
        assert client.get("/api/v1/status").json()["status"] == "ok"
        own_postgres.stop()

        status = client.get("/api/v1/status").json()

    assert status["versions"]["postgresql"] is None
    assert status["feed"] is None
    assert status["database"]["errors"] > 0


@needs_chromium
def test_the_page_shows_the_status_with_a_key(service: ServiceProcess, page: Page) -> None:
    page.open(f"{service.url}/status")
    page.value(f"document.getElementById('key').value = '{API_KEY}'; document.querySelector('button').click()")
    page.wait_for("!document.getElementById('board').hidden")

    shown = page.value("document.body.innerText")

    assert page.value("document.getElementById('state').textContent") == "ok"
    assert __version__ in shown
    assert "/api/v1/users/{user_id}" in shown
    assert page.complaints() == []
    assert page.hosts() == {service.url.removeprefix("http://")}


@needs_chromium
def test_the_page_keeps_itself_up_to_date(service: ServiceProcess, client: httpx.Client, page: Page) -> None:
    page.open(f"{service.url}/status")
    page.value(f"document.getElementById('key').value = '{API_KEY}'; document.querySelector('button').click()")
    page.wait_for("!document.getElementById('board').hidden")
    position = "document.querySelector('#feed dd').textContent"
    before = page.value(position)

    create_user(client)

    page.wait_for(f"{position} !== {json.dumps(before)}")


@needs_chromium
@pytest.mark.parametrize("has_admin_page", [True, False])
def test_batches_imports_and_keys_are_at_the_admin_page_alone(
    database_url: str, tmp_path: Path, page: Page, has_admin_page: bool
) -> None:
    with serving(tmp_path, DATABASE_URL=database_url, ADMIN_PAGE=str(has_admin_page).lower()) as service:
        with service.client() as client:
            client.post(f"{USERS}/batch/create", json={"items": []})
        page.open(f"{service.url}/status")
        page.value(f"document.getElementById('key').value = '{API_KEY}'; document.querySelector('button').click()")
        page.wait_for("!document.getElementById('board').hidden")
        shown = page.value("document.body.innerText")
        if has_admin_page:
            page.value("document.querySelector('#admin a').click()")
            page.wait_for("document.body?.innerText.includes('API key or token')")

    assert "batch create" not in shown
    assert ("on the admin page" in shown, "the admin page is off" in shown) == (has_admin_page, not has_admin_page)


@needs_chromium
def test_the_page_refuses_a_wrong_key_and_keeps_none(service: ServiceProcess, page: Page) -> None:
    page.open(f"{service.url}/status")
    page.value("document.getElementById('key').value = 'wrong'; document.querySelector('button').click()")
    page.wait_for("!document.getElementById('error').hidden")

    assert page.value("document.getElementById('board').hidden") is True
    assert page.value("document.getElementById('key').value") == ""
    assert page.value("localStorage.length + sessionStorage.length + document.cookie.length") == 0
