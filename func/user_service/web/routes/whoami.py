"""`/api/v1/whoami`: what the caller's key or token is, and what it allows."""

from fastapi import Request
from pydantic import BaseModel, Field

from user_service.web.dependencies import get_principal
from user_service.web.openapi import COMMON_PROBLEMS
from user_service.web.routing import make_router

router = make_router("operations", responses=COMMON_PROBLEMS)


class CallerRead(BaseModel):
    """The caller of this request."""

    actor: str = Field(description="The caller's name in audit trails and events", examples=["api-key:7d1f0c02"])
    kind: str = Field(description="`api_key` or `jwt`", examples=["api_key"])
    scopes: list[str] = Field(description="What the caller may do, sorted", examples=[["users:read", "users:write"]])


@router.get("/api/v1/whoami")
async def read_caller(request: Request) -> CallerRead:
    """The caller's name in audit trails, and its scopes. Needs no scope."""
    principal = get_principal(request)
    return CallerRead(actor=principal.name, kind=principal.kind, scopes=sorted(principal.scopes))
