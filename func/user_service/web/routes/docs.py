"""`/openapi.json`, and `/docs`, a page to read it."""

from typing import Any

from fastapi import Request, Response

from user_service.web.routing import make_router
from user_service.web.static import load_page

router = make_router("operations")


@router.get("/openapi.json", include_in_schema=False)
async def read_openapi(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/docs", include_in_schema=False)
async def read_docs() -> Response:
    content, policy = load_page("docs.html")
    return Response(content, 200, {"Content-Security-Policy": policy}, "text/html; charset=utf-8")
