"""Clients that leave in the middle of a body or of a response: one plain line of the log, no error of the service"""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import httpx
import pytest

from support.api import USERS, create_user, user_url
from support.process import ServiceProcess
from support.settings import API_KEY
from support.waiting import wait_until

JSON: Final = "Content-Type: application/json"
KEYED: Final = "Idempotency-Key: gone"
LONG: Final = "Content-Length: 1000"
CHUNKED: Final = "Transfer-Encoding: chunked"
ROUTES: Final = (USERS, "/events")
RESET: Final = struct.pack("ii", 1, 0)
BODIES: Final[dict[str, tuple[str, str, list[str], bytes]]] = {
    "a user": ("POST", USERS, [JSON, LONG], b'{"email"'),
    "a user in chunks": ("POST", USERS, [JSON, CHUNKED], b'5\r\n{"ema'),
    "a body that was never begun": ("POST", USERS, [JSON, LONG, "Expect: 100-continue"], b""),
    "a patch with a key": ("PATCH", "{user}", [JSON, LONG, KEYED], b"{"),
    "a deletion with a key": ("DELETE", "{user}", [LONG, KEYED], b"{"),
    "a batch": ("POST", f"{USERS}/batch/create", [JSON, LONG], b'{"items": ['),
    "a find": ("POST", f"{USERS}/batch/find", [JSON, LONG], b'{"ids": ['),
    "an event": ("POST", "/events", ["Content-Type: application/cloudevents+json", LONG], b"{"),
    "a binary event": ("POST", "/events", [JSON, LONG, "ce-id: 1"], b"{"),
    "an import": ("POST", f"{USERS}/imports", ["Content-Type: application/x-ndjson", LONG], b'{"email": '),
    "an import as CSV": ("POST", f"{USERS}/imports", ["Content-Type: text/csv", CHUNKED], b"7\r\nemail\na\r\n"),
}


@contextmanager
def leaving(service: ServiceProcess, *, how: str) -> Iterator[socket.socket]:
    """A connection that its client closes, or resets."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        yield connection
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def access_lines(service: ServiceProcess) -> list[dict[str, object]]:
    """The lines of requests, without those of probes."""
    return [line for line in service.lines() if line["logger"] == "access" and str(line["route"]).startswith(ROUTES)]


def has_more_lines(service: ServiceProcess, before: int) -> bool:
    return len(access_lines(service)) > before


def failed_requests(client: httpx.Client) -> int:
    """The number of responses of 5xx in the metrics."""
    lines = client.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("user_http_request") and 'status="5' in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in counts if "_count" in line or "_total" in line)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_body_that_is_cut_is_one_plain_line(service_process: ServiceProcess, how: str) -> None:
    with service_process.client() as client:
        user = user_url(create_user(client))
        for method, path, headers, body in BODIES.values():
            before = len(access_lines(service_process))
            target = path.format(user=user)
            lines = [f"{method} {target} HTTP/1.1", "Host: x", f"X-API-Key: {API_KEY}", *headers, "", ""]

            with leaving(service_process, how=how) as connection:
                connection.sendall("\r\n".join(lines).encode() + body)
                # A response to a later request: the service has read the head of this one.
                client.get("/api/health/live")

            wait_until(partial(has_more_lines, service_process, before), "the line of the cut request")
        failed = failed_requests(client)

    statuses = [line["status"] for line in access_lines(service_process)]
    faults = [line for line in service_process.lines() if line["level"] in {"warning", "error", "critical"}]
    assert faults == []
    assert statuses[1 : len(BODIES) + 1] == [400] * len(BODIES)
    assert failed == 0


def test_an_import_of_a_gone_client_can_be_continued(service_process: ServiceProcess) -> None:
    records = b"".join(b'{"email": "u%d@example.org"}\n' % number for number in range(1500))
    head = ["Content-Type: application/x-ndjson", "Content-Length: 100000", KEYED]
    with service_process.client() as client:
        with leaving(service_process, how="reset") as connection:
            lines = [f"POST {USERS}/imports HTTP/1.1", "Host: x", f"X-API-Key: {API_KEY}", *head, "", ""]
            connection.sendall("\r\n".join(lines).encode() + records)

            def has_applied_a_chunk() -> bool:
                items = client.get(f"{USERS}/imports").json()["items"]
                return bool(items) and items[0]["position"] == 1000

            wait_until(has_applied_a_chunk, "the first chunk")

        def is_interrupted() -> bool:
            return bool(client.get(f"{USERS}/imports").json()["items"][0]["state"] == "interrupted")

        wait_until(is_interrupted, "the end of the import")

        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "gone"}
        resumed = client.post(f"{USERS}/imports", content=records, headers=headers)

    assert (resumed.status_code, resumed.json()["created"], resumed.json()["failed"]) == (202, 1500, 0)


def test_an_export_whose_reader_goes_is_one_plain_line(service_process: ServiceProcess) -> None:
    with service_process.client() as client:
        preferences = {f"key{number}": "x" * 100 for number in range(100)}
        for number in range(4):
            users = [{"email": f"u{number}-{row}@example.org", "preferences": preferences} for row in range(150)]
            created = client.post(f"{USERS}/batch/create", json={"items": [{"data": user} for user in users]})
            assert created.status_code == 200, created.text
        for how in ("close", "reset"):
            before = len(access_lines(service_process))
            with leaving(service_process, how=how) as connection:
                lines = [f"GET {USERS}/export HTTP/1.1", "Host: x", f"X-API-Key: {API_KEY}", "", ""]
                connection.sendall("\r\n".join(lines).encode())
                connection.recv(1000)
            wait_until(partial(has_more_lines, service_process, before), "the line of the cut export")

    assert [line for line in service_process.lines() if line["level"] in {"warning", "error", "critical"}] == []
