"""A small JSON client on one kept connection: for preparing, checking and timing single requests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from types import TracebackType
from typing import Any, Self

from benchmarks.errors import BenchmarkError
from benchmarks.processes import LOOPBACK


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Requests with the same headers to one port; `expect` names the status that must come back."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self.connection = HTTPConnection(LOOPBACK, port, timeout=30)
        self.headers = dict(headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def request(self, method: str, path: str, *, expect: int, data: object = None, **headers: str) -> Answer:
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        body = None
        if data is not None:
            body = json.dumps(data).encode()
            sent.setdefault("Content-Type", "application/json")
        self.connection.request(method, path, body=body, headers=sent)
        response = self.connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        if answer.status != expect:
            start = answer.content[:500].decode(errors="replace")
            raise BenchmarkError(f"{method} {path} answered {answer.status} instead of {expect}: {start}")
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, expect=200, **headers)
