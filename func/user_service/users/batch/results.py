"""The response to a batch: a summary, and the result of each item in the order of the request."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from user_service.errors import AliasTaken, FieldError, ServiceError
from user_service.idempotency.stored_responses import StoredResponse

ItemResult = dict[str, Any]
JSON_MEDIA_TYPE: Final = "application/json"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

# The part of an item that an error is about, by the error's code, where the error names no field.
POINTERS: Final = {
    "email_taken": "/data/email",
    "username_taken": "/data/username",
    "external_id_taken": "/data/external_id",
    "id_taken": "/data/id",
    "user_not_found": "/id",
    "version_mismatch": "/if_version",
}


@dataclass(frozen=True, slots=True)
class BatchResponse:
    """`status` is the HTTP status. `items` are empty on a replay, whose `body` is that of the first response."""

    status: int
    body: bytes
    media_type: str = JSON_MEDIA_TYPE
    items: Sequence[ItemResult] = field(default=(), repr=False)
    replayed: bool = False

    @staticmethod
    def replay(stored: StoredResponse) -> "BatchResponse":
        return BatchResponse(stored.status, stored.body, dict(stored.headers)["content-type"], replayed=True)

    def to_stored(self) -> StoredResponse:
        return StoredResponse(self.status, [("content-type", self.media_type)], self.body, self.items)


def applied_response(items: Sequence[ItemResult]) -> BatchResponse:
    """The response to a batch whose valid items were applied: 200, or 207 when some failed."""
    summary = summarise(items)
    body = orjson.dumps({"summary": summary, "items": items})
    return BatchResponse(207 if summary["failed"] else 200, body, items=items)


def refused_response(items: Sequence[ItemResult], request_id: str) -> BatchResponse:
    """The response to an atomic batch of which nothing was applied: a problem that lists every failing item."""
    failing = [item for item in items if item["status"] == "failed"]
    summary = {"total": len(items), "succeeded": 0, "failed": len(failing), "skipped": len(items) - len(failing)}
    document = {
        "type": "urn:user-service:problem:batch_refused",
        "title": "Nothing was applied",
        "status": 409,
        "detail": f"{len(failing)} of {len(items)} items failed, and the mode is atomic.",
        "code": "batch_refused",
        "request_id": request_id,
        "errors": [{"pointer": f"/items/{item['index']}", **item["error"]} for item in failing],
        "summary": summary,
        "items": failing,
    }
    return BatchResponse(409, orjson.dumps(document), PROBLEM_MEDIA_TYPE, items)


def summarise(items: Sequence[ItemResult]) -> dict[str, int]:
    counts = Counter(item["status"] for item in items)
    failed, skipped = counts["failed"], counts["skipped"]
    return {"total": len(items), "succeeded": len(items) - failed - skipped, "failed": failed, "skipped": skipped}


def fail_item(index: int, ref: str | None, error: ServiceError) -> ItemResult:
    """The result of an item that was not applied because of an error."""
    shown: dict[str, str] = {"code": error.code, "detail": error.detail}
    if error.errors:
        first, *more = error.errors
        shown["detail"] = describe(first) + (f"; and {len(more)} more" if more else "")
        shown["pointer"] = first.pointer
    elif isinstance(error, AliasTaken):
        shown["pointer"] = f"/items/{index}/data/aliases"
    elif error.code in POINTERS:
        shown["pointer"] = f"/items/{index}{POINTERS[error.code]}"
    return {"index": index, "ref": ref, "status": "failed", "id": None, "version": None, "error": shown}


def describe(fault: FieldError) -> str:
    return f"{fault.detail} ({fault.code})"


def is_invalid(result: ItemResult) -> bool:
    """Whether an item failed because it does not fit its schema."""
    return bool(result["status"] == "failed" and result["error"]["code"] == "validation_failed")
