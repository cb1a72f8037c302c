"""Files of users against a running service, over HTTP."""

import http.client
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from user_service.cli.dry_run import dry_failures, readable_chunks
from user_service.cli.imports import PIECE_BYTES, Summary, TransferRefused
from user_service.errors import ConfigurationError

CONTENT_TYPES: Final = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
COUNTS: Final = ("created", "updated", "skipped", "failed")
TIMEOUT_SECONDS: Final = 300
MAX_FAILURES: Final = 10_000


class HttpTarget:
    """A service at `url`, such as http://localhost:3002."""

    def __init__(self, url: str, api_key: str | None) -> None:
        parts = urlsplit(url)
        key = api_key or os.environ.get("USER_SERVICE_API_KEY")
        if parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise ConfigurationError(f"--url: {url} is not an address such as http://localhost:3002")
        if key is None:
            raise ConfigurationError("--api-key: give the service's key, or set USER_SERVICE_API_KEY")
        secure = parts.scheme == "https"
        self.connection_type = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self.address = (parts.hostname, parts.port)
        self.base = parts.path.rstrip("/") + "/api/v1/users"
        self.headers = {"X-API-Key": key}

    def send(self, pieces: Iterator[bytes], *, file_format: str, on_conflict: str, key: str) -> Summary:
        headers = {"Content-Type": CONTENT_TYPES[file_format], "Idempotency-Key": key}
        response = self.request("POST", f"/imports?on_conflict={on_conflict}", pieces, headers)
        found = orjson.loads(response.read())
        failures = self.failures(found["id"]) if found["failed"] else []
        return Summary({name: found[name] for name in COUNTS}, failures, found["id"])

    def failures(self, import_id: str) -> list[dict[str, Any]]:
        response = self.request("GET", f"/imports/{import_id}/errors")
        return [orjson.loads(line) for line, _ in zip(response, range(MAX_FAILURES), strict=False)]

    def rehearse(self, pieces: Iterator[bytes], *, file_format: str, on_conflict: str) -> Summary:
        counts: Counter[str] = Counter()
        failures: list[dict[str, Any]] = []
        for numbers, records, bad in readable_chunks(pieces, file_format):
            items = [{"data": record} for record in records]
            body = orjson.dumps({"dry_run": True, "on_conflict": on_conflict, "items": items})
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            results = orjson.loads(self.request("POST", "/batch/create", body, headers).read())["items"]
            counts.update(result["status"] for result in results)
            counts["failed"] += len(bad)
            failures += bad + dry_failures(numbers, results)
        return Summary(counts, failures)

    def fetch(self, *, deleted: bool) -> Iterator[bytes]:
        response = self.request("GET", "/export?include=deleted" if deleted else "/export")
        try:
            while piece := response.read1(PIECE_BYTES):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise TransferRefused(f"The export was cut off ({type(error).__name__}).") from None

    def request(
        self, method: str, path: str, body: Iterator[bytes] | bytes | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        connection = self.connection_type(*self.address, timeout=TIMEOUT_SECONDS)
        streamed = body is not None and not isinstance(body, bytes)
        try:
            connection.request(
                method, self.base + path, body, {**self.headers, **(headers or {})}, encode_chunked=streamed
            )
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise TransferRefused(
                f"{self.address[0]} did not answer ({type(error).__name__}). The same command goes on where it was."
            ) from None
        if response.status >= 400:
            raise TransferRefused(reason_of(response))
        return response


def reason_of(response: http.client.HTTPResponse) -> str:
    try:
        problem = orjson.loads(response.read())
        faults = "".join(f"\n- {fault['pointer']} {fault['detail']}" for fault in problem["errors"])
        return f"{response.status} {problem['code']}: {problem['detail']}{faults}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"The answer was {response.status} {response.reason}, and not one of this service's."
