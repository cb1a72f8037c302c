"""`/openapi.json`, and `/docs`, which shows it in Swagger UI; `/asyncapi.json`, and the schemas of the events in it."""

from asyncio import to_thread
from typing import Any

import orjson
from fastapi import Request, Response

from user_service.errors import NotFound
from user_service.web.asyncapi_document import make_asyncapi_document
from user_service.web.dependencies import get_resources
from user_service.web.event_schemas import EVENT_DATA, make_schema
from user_service.web.routing import make_router
from user_service.web.static import ASSETS, content_hash, load_asset, load_docs_page

router = make_router("operations")


@router.get("/openapi.json", include_in_schema=False)
async def read_openapi(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/asyncapi.json", include_in_schema=False)
async def read_asyncapi(request: Request) -> Response:
    is_receiving = get_resources(request).settings.serve != "api"
    document = await to_thread(make_asyncapi_document, is_receiving=is_receiving)
    return Response(orjson.dumps(document), 200, media_type="application/json")


@router.get("/schemas/{name}.json", include_in_schema=False)
async def read_event_schema(name: str) -> Response:
    """The schema that the attribute `dataschema` of an event names."""
    if name not in EVENT_DATA:
        raise NotFound
    return Response(orjson.dumps(await to_thread(make_schema, name)), 200, media_type="application/schema+json")


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
