"""CORS: off, and on for the origins of CORS_ORIGINS, on every path of the service"""

from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from support.api import USERS, make_user, user_url
from support.application import Client, running
from support.browser import browsing, needs_chromium
from support.http_server import serving_http
from support.live_server import live
from support.settings import API_KEY, make_settings

APP, OTHER = "https://app.example.org", "https://evil.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "content-type,if-match,x-api-key",
}


@pytest.fixture
async def open_client(database_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    settings = make_settings(database_url, tmp_path, cors_origins=(APP, "http://localhost:5173"))
    async with running(settings) as client:
        yield client


def names(response: httpx.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in response.headers[header].split(",")}


@pytest.mark.parametrize("path", [USERS, f"{USERS}/x", "/events", "/api/health/live", "/nothing"])
async def test_a_preflight_of_a_named_origin_needs_no_key(open_client: Client, path: str) -> None:
    open_client.headers.pop("X-API-Key")

    response = await open_client.request("OPTIONS", path, headers={"Origin": APP, **PREFLIGHT})

    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == APP
    assert {"get", "put", "patch", "post", "delete"} <= names(response, "access-control-allow-methods")
    assert {
        "authorization", "x-api-key", "content-type", "if-match", "if-none-match", "idempotency-key", "x-request-id",
    } <= names(response, "access-control-allow-headers")  # fmt: skip
    assert response.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in response.headers


async def test_a_named_origin_reads_every_response_with_its_headers(open_client: Client) -> None:
    user = await make_user(open_client)
    origin = {"Origin": APP}
    responses = {
        "fast path": await open_client.get(user_url(user), headers=origin),
        "not modified": await open_client.get(user_url(user), headers={**origin, "If-None-Match": '"1"'}),
        "list": await open_client.get(USERS, headers=origin),
        "probe": await open_client.get("/api/health/live", headers=origin),
        "no credentials": await open_client.get(USERS, headers={**origin, "X-API-Key": "wrong"}),
        "invalid": await open_client.post(USERS, json={}, headers=origin),
        "not found": await open_client.get("/nothing", headers=origin),
    }
    assert [response.status_code for response in responses.values()] == [200, 304, 200, 200, 401, 422, 404]
    for name, response in responses.items():
        assert response.headers["access-control-allow-origin"] == APP, name
        assert {
            "etag", "location", "link", "ratelimit", "retry-after", "x-request-id", "idempotency-replayed",
        } <= names(response, "access-control-expose-headers")  # fmt: skip
        assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", [OTHER, "null", "https://app.example.org.evil.example", f"{APP}:444", "*", ""])
async def test_another_origin_is_told_nothing(open_client: Client, origin: str) -> None:
    read = await open_client.get(USERS, headers={"Origin": origin})
    preflight = await open_client.request("OPTIONS", USERS, headers={"Origin": origin, **PREFLIGHT})

    assert (read.status_code, preflight.status_code) == (200, 405)
    for response in (read, preflight):
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["vary"] == "Origin"


async def test_it_is_off_without_named_origins(shared_client: Client) -> None:
    read = await shared_client.get(USERS, headers={"Origin": APP})
    preflight = await shared_client.request("OPTIONS", USERS, headers={"Origin": APP, **PREFLIGHT})

    assert (read.status_code, preflight.status_code) == (200, 405)
    for response in (read, preflight):
        assert not [name for name in response.headers if name.startswith("access-control") or name == "vary"]


class EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>app</title>")

    def log_message(self, *arguments: object) -> None: ...


SCRIPT = """
const made = await fetch(api, {
  method: "POST", headers: {"Content-Type": "application/json", "X-API-Key": key, "Idempotency-Key": "browser-1"},
  body: JSON.stringify({email: "ada@example.org"})});
const user = new URL(made.headers.get("location"), made.url);
const patched = await fetch(user, {
  method: "PATCH", headers: {"Content-Type": "application/merge-patch+json", "X-API-Key": key,
  "If-Match": made.headers.get("etag")}, body: JSON.stringify({given_name: "Ada"})});
const refused = await fetch(user, {headers: {"X-API-Key": "wrong"}});
const page = await fetch(api + "?limit=1", {headers: {"X-API-Key": key}});
return [made.status, patched.status, patched.headers.get("etag"), refused.status,
  (await page.json()).items[0].given_name, Boolean(refused.headers.get("x-request-id"))];
"""


@needs_chromium
@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_a_page_of_another_origin_works_in_a_browser_if_its_origin_is_named(
    database_url: str, tmp_path: Path, named: bool
) -> None:
    with serving_http(ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage)) as app, browsing(tmp_path) as page:
        settings = make_settings(database_url, tmp_path, cors_origins=(app,) if named else (OTHER,))
        with live(settings) as server:
            page.open(app)
            arguments = f'"http://127.0.0.1:{server.port}{USERS}", "{API_KEY}"'
            run = f"(async (api, key) => {{{SCRIPT}}})({arguments})"
            page.value(f"{run}.then(found => {{window.found = found}}, error => {{window.found = error.name}}); 0")
            page.wait_for("window.found !== undefined")

            assert page.value("window.found") == ([201, 200, '"2"', 401, "Ada", True] if named else "TypeError")
