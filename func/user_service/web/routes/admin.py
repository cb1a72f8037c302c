"""`/admin`: a page for people, which works through the HTTP API with the caller's own key or token."""

from asyncio import to_thread
from typing import Final

from fastapi import Response

from user_service.errors import NotFound
from user_service.web.routing import make_router
from user_service.web.static.admin import admin_version, load_admin_assets, load_admin_page

IMMUTABLE: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
router = make_router("operations")


@router.get("/admin", include_in_schema=False)
async def read_admin_page() -> Response:
    page = await to_thread(load_admin_page)
    headers = {
        "Content-Security-Policy": page.policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
    }
    return Response(page.content, 200, headers, "text/html; charset=utf-8")


@router.get("/admin/{version}/{name}", include_in_schema=False)
async def read_admin_asset(version: str, name: str) -> Response:
    """A file of the page; `version` is the `admin_version` that it belongs to."""
    if version != await to_thread(admin_version) or (asset := load_admin_assets().get(name)) is None:
        raise NotFound
    return Response(asset.content, 200, IMMUTABLE, asset.media_type)
