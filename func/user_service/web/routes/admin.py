"""`/admin`: a page for people, which works through the HTTP API with the caller's own key or token."""

from asyncio import to_thread
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from fastapi import Request, Response

from user_service.errors import IssuerUnavailable, NotFound
from user_service.settings import Settings
from user_service.values.deferred import Deferred
from user_service.web.dependencies import get_database, get_resources
from user_service.web.responses import RawResponse, json_response
from user_service.web.routing import OPEN_QUERY, make_router
from user_service.web.static import WebPage
from user_service.web.static.admin import admin_version, load_admin_assets, load_admin_page, load_callback_page

if TYPE_CHECKING:
    from user_service.security.oidc_discovery import OidcDiscovery

IMMUTABLE: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
HTML: Final = "text/html; charset=utf-8"
router = make_router("operations")


def defer_discovery(settings: Settings) -> "Deferred[OidcDiscovery] | None":
    """The discovery of the issuer at which persons sign in to the page, for the first request; None without one."""
    if settings.admin_oidc_client_id is None or settings.jwt_issuer is None:
        return None
    return Deferred(partial(open_discovery, settings.jwt_issuer, settings))


def open_discovery(issuer: str, settings: Settings) -> "OidcDiscovery":
    from user_service.security.oidc_discovery import OidcDiscovery

    return OidcDiscovery(issuer, settings.jwks_ca_file)


async def find_discovery(request: Request) -> "OidcDiscovery | None":
    deferred: Deferred[OidcDiscovery] | None = request.app.state.oidc_discovery
    return await deferred.get() if deferred is not None else None


@router.get("/admin", include_in_schema=False)
async def read_admin_page(request: Request) -> Response:
    """The page. It may send requests to this service, and to the issuer's token endpoint."""
    page = await to_thread(load_admin_page)
    policy = page.policy
    if (discovery := await find_discovery(request)) is not None:
        with suppress(IssuerUnavailable):
            origin = (await discovery.find()).token_origin
            policy = policy.replace("connect-src 'self'", f"connect-src 'self' {origin}")
    return page_response(page, policy)


@router.get("/admin/sign-in", include_in_schema=False)
async def read_sign_in(request: Request) -> RawResponse:
    """How the page signs persons in besides by a key or a token: as a public client of an issuer, with PKCE (RFC 7636).

    Raises IssuerUnavailable.
    """
    # The page lists users next. The modules of a process's first list are imported while a person signs in.
    get_database(request).search.start()
    settings = get_resources(request).settings
    if (discovery := await find_discovery(request)) is None:
        return json_response({"oidc": None})
    endpoints = await discovery.find()
    client = {
        "issuer": discovery.issuer,
        "authorization_endpoint": endpoints.authorization,
        "token_endpoint": endpoints.token,
        "client_id": settings.admin_oidc_client_id,
        "scope": settings.admin_oidc_scope,
        "audience": settings.jwt_audience,
    }
    return json_response({"oidc": client})


@router.get("/admin/callback", include_in_schema=False, openapi_extra={OPEN_QUERY: ""})
async def read_callback_page() -> Response:
    """The page to which an issuer sends a person back. Its script reads the query, of which the issuer decides."""
    page = await to_thread(load_callback_page)
    return page_response(page, page.policy)


@router.get("/admin/{version}/{name}", include_in_schema=False)
async def read_admin_asset(version: str, name: str) -> Response:
    """A file of the page; `version` is the `admin_version` that it belongs to."""
    if version != await to_thread(admin_version) or (asset := load_admin_assets().get(name)) is None:
        raise NotFound
    return Response(asset.content, 200, IMMUTABLE, asset.media_type)


def page_response(page: WebPage, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
    return Response(page.content, 200, headers, HTML)
