"""`/openapi.json`, and `/docs`, which shows it in Swagger UI."""

from asyncio import to_thread
from typing import Any

from fastapi import Request, Response

from user_service.errors import NotFound
from user_service.web.routing import make_router
from user_service.web.static import ASSETS, content_hash, load_asset, load_docs_page

router = make_router("operations")


@router.get("/openapi.json", include_in_schema=False)
async def read_openapi(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/docs", include_in_schema=False)
async def read_docs() -> Response:
    page = await to_thread(load_docs_page)
    headers = {"Content-Security-Policy": page.policy, "Cache-Control": "no-cache"}
    return Response(page.content, 200, headers, "text/html; charset=utf-8")


@router.get("/docs/{version}/{name}", include_in_schema=False)
async def read_docs_asset(version: str, name: str) -> Response:
    """A file of the page; `version` is the content_hash of its content."""
    if name not in ASSETS or version != await to_thread(content_hash, name):
        raise NotFound
    asset = await to_thread(load_asset, name)
    return Response(asset.content, 200, {"Cache-Control": "public, max-age=31536000, immutable"}, asset.media_type)
