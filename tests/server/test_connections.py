"""Connections within bounds: slow senders, heads and bodies without end."""

import json
import socket
from collections.abc import Iterator

import pytest

from support.live_server import LiveServer, live, read_until_closed
from support.servers import PostgresServer
from support.settings import API_KEY, make_settings

USERS = b"/api/v1/users"
KEY = b"X-API-Key: " + API_KEY.encode()
HEAD = b"GET /api/health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST " + USERS + b" HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def hasty(
    postgres: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that waits for a second, where the default is ten."""
    database_url = postgres.create_database("connections", template=migrated_template)
    settings = make_settings(
        database_url, tmp_path_factory.mktemp("data"), head_timeout=1, body_timeout=1, max_connections=40
    )
    with live(settings) as running:
        yield running
    postgres.drop_database("connections")


def read_answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and problem of the one answer before the server closes, which names the request as every answer does."""
    head, _, body = read_until_closed(connection).partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    problem = json.loads(body)
    assert b"connection: close" in lines, head
    assert b"x-request-id: " + problem["request_id"].encode() in lines
    assert any(line.startswith(b"traceparent: 00-") for line in lines)
    return int(head.split()[1]), problem


def read_more(connection: socket.socket) -> bytes:
    chunk = connection.recv(65536)
    assert chunk, "the server closed the connection"
    return chunk


def next_answer(connection: socket.socket) -> bytes:
    """The next answer of a connection that stays open, whole."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += read_more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += read_more(connection)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "start",
    [b"", b"\r\n", b"G", b"GET /api/v1/users HTTP/1.1\r\n", HEAD, HEAD + b"X-Slow: and"],
    ids=["nothing", "empty line", "letter", "request line", "headers", "half a header"],
)
def test_a_head_that_does_not_end_is_cut(hasty: LiveServer, start: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(start)
        status, problem = read_answer(connection)

    assert (status, problem["code"]) == (408, "request_too_slow")


def test_a_head_that_trickles_is_cut(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        connection.sendall(HEAD)
        connection.settimeout(0.1)
        received, sent = b"", 0
        while not received:
            connection.sendall(b"X-Drop: a\r\n")
            sent += 1
            assert sent < 600
            try:
                received = connection.recv(65536)
            except TimeoutError:
                continue

    assert received.startswith(b"HTTP/1.1 408 ")


def test_the_second_head_of_a_connection_is_watched_too(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        connection.sendall(HEAD + b"\r\n")
        assert next_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(HEAD)
        status, _ = read_answer(connection)

    assert status == 408


def test_empty_lines_between_requests_do_not_keep_a_connection_open(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        connection.sendall(HEAD + b"\r\n")
        assert next_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        rest = read_until_closed(connection)

    assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 1000\r\n\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n{",
        b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
    ],
    ids=["length", "chunked", "expectant"],
)
def test_a_body_that_does_not_come_is_cut(hasty: LiveServer, framing: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(POST + framing)
        received = read_until_closed(connection)

    assert b"HTTP/1.1 408 " in received


def test_a_body_that_trickles_is_cut(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        connection.sendall(POST + b"Content-Length: 100000\r\n\r\n")
        connection.settimeout(0.05)
        received, sent = b"", 0
        while not received:
            connection.sendall(b" ")
            sent += 1
            assert sent < 1200
            try:
                received = connection.recv(65536)
            except TimeoutError:
                continue

    assert received.startswith(b"HTTP/1.1 408 ")


def waits(connection: socket.socket) -> bool:
    """Whether the server says nothing for a moment."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    return False


def test_a_body_that_makes_headway_is_waited_for(hasty: LiveServer) -> None:
    body = json.dumps({"email": "steady@example.org", "given_name": "x"}).encode().ljust(9000)
    with hasty.connect() as connection:
        connection.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        connection.settimeout(0.25)
        # Each piece is enough for a second by itself, so that one may be late.
        for start in range(0, len(body), 600):
            assert waits(connection)
            connection.sendall(body[start : start + 600])
        connection.settimeout(60)
        received = read_until_closed(connection)

    assert received.startswith(b"HTTP/1.1 201 ")


def test_a_body_that_goes_on_after_its_answer_is_cut(hasty: LiveServer) -> None:
    sent = 0
    with hasty.connect() as connection:
        connection.sendall(POST + b"Content-Length: 100000000\r\n\r\n")
        assert next_answer(connection).startswith(b"HTTP/1.1 413 ")
        connection.settimeout(0.05)
        try:
            while waits(connection) and sent < 1_000_000:
                sent += connection.send(b" " * 1000)
        except ConnectionError:
            pass

    assert sent < 1_000_000


@pytest.mark.parametrize(
    "head",
    [
        b"".join(b"X-%d: a\r\n" % number for number in range(101)),
        b"X-Long: " + b"a" * 33_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (number, b"a" * 500) for number in range(70)),
    ],
    ids=["many", "long", "much"],
)
@pytest.mark.parametrize("pieces", [1, 9])
def test_a_large_head_is_refused(hasty: LiveServer, head: bytes, pieces: int) -> None:
    request = HEAD + head + b"\r\n"
    size = len(request) // pieces + 1
    with hasty.connect() as connection:
        try:
            for start in range(0, len(request), size):
                connection.sendall(request[start : start + size])
        except ConnectionError:
            assert pieces > 1
        status, problem = read_answer(connection)

    assert (status, problem["code"]) == (431, "head_too_large")


def test_a_url_without_end_is_refused(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        connection.sendall(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        status, _ = read_answer(connection)

    assert status == 431


def test_a_large_body_does_not_count_as_head(hasty: LiveServer) -> None:
    body = json.dumps({"email": "large@example.org", "given_name": "x"}).encode().ljust(100_000)
    with hasty.connect() as connection:
        for status in (b"201", b"409"):
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert next_answer(connection).startswith(b"HTTP/1.1 " + status)
        connection.sendall(HEAD[:20])
        connection.sendall(HEAD[20:] + b"\r\n")
        assert next_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_their_order(hasty: LiveServer) -> None:
    paths = [b"/api/health/live", b"/nowhere", b"/api/health/ready", USERS, b"/api/health/live"]
    requests = [b"GET %s HTTP/1.1\r\nHost: x\r\nX-Request-ID: r%d\r\n" % (path, i) for i, path in enumerate(paths)]
    with hasty.connect() as connection:
        connection.sendall(b"\r\n".join(requests) + b"Connection: close\r\n\r\n")
        received = read_until_closed(connection)

    lines = received.split(b"\r\n")
    order = [line for line in lines if line.lower().startswith(b"x-request-id")]
    assert order == [b"x-request-id: r%d" % number for number in range(5)]


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 1e3\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, x\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["both", "two lengths", "negative", "scientific", "gzip", "chunk size", "space", "version", "tls", "http2"],
)
def test_a_request_that_could_be_read_two_ways_is_refused(hasty: LiveServer, request_bytes: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(request_bytes)
        status, problem = read_answer(connection)

    assert (status, problem["code"]) == (400, "malformed_request")


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nhost: b\r\n",
        b"Host: a b\r\n",
        b"Host: a/c\r\n",
        b"Host: user@example.org\r\n",
        b"Host: http://example.org\r\n",
        b"Host: example.org:http\r\n",
        b"Host: example.org:80:80\r\n",
        b"Host: [::1\r\n",
        b"Host: ::1\r\n",
        b"Host: ex%zzample.org\r\n",
        b"Host: b\xc3\xbccher.example\r\n",
        b"Host: <script>\r\n",
    ],
)
def test_a_request_without_one_valid_host_is_refused(hasty: LiveServer, hosts: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(b"GET /api/health/live HTTP/1.1\r\n" + hosts + b"X-Request-ID: mine-1\r\n\r\n")
        status, problem = read_answer(connection)

    assert (status, problem["code"], problem["request_id"]) == (400, "malformed_request", "mine-1")
    assert "Host" in str(problem["detail"])


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1\r\nHost: example.org",
        b"HTTP/1.1\r\nHost:",
        b"HTTP/1.1\r\nHost: Example.ORG:8080 ",
        b"HTTP/1.1\r\nHost: [2001:db8::1]:3002",
        b"HTTP/1.1\r\nHost: 127.0.0.1:",
        b"HTTP/1.1\r\nHost: user_service.ns.svc.cluster.local",
        b"HTTP/1.1\r\nHost: b%C3%BCcher.example",
        b"HTTP/1.0\r\nHost: example.org",
        b"HTTP/1.0\r\nX-Other: 1",
    ],
)
def test_a_request_with_one_valid_host_is_served(hasty: LiveServer, head: bytes) -> None:
    with hasty.connect() as connection:
        connection.sendall(b"GET /api/health/live " + head + b"\r\n\r\n")
        assert next_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_every_request_of_a_connection_needs_its_host(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        connection.sendall(HEAD + b"\r\n")
        assert next_answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /api/health/live HTTP/1.1\r\n\r\n")
        status, _ = read_answer(connection)

    assert status == 400


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "length"])
def test_a_body_over_the_bound_is_refused(hasty: LiveServer, chunked: bool) -> None:
    body = b'{"email": "' + b"a" * 300_000 + b'"}'
    framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with hasty.connect() as connection:
        connection.sendall(POST + (framed if chunked else b"Content-Length: %d\r\n\r\n%s" % (len(body), body)))
        response = next_answer(connection)

    assert response.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"payload_too_large"' in response
    assert chunked or b"262,144 bytes" in response
    assert response.count(b"HTTP/1.1 ") == 1


def test_a_body_longer_than_it_says_is_no_part_of_the_request(hasty: LiveServer) -> None:
    with hasty.connect() as connection:
        connection.sendall(POST + b'Content-Length: 2\r\n\r\n{}{"email": "smuggled@example.org"}')
        received = read_until_closed(connection)

    assert received.count(b"HTTP/1.1 ") <= 2
    assert b"HTTP/1.1 201" not in received


def test_more_connections_than_allowed_are_turned_away(hasty: LiveServer) -> None:
    held = []
    try:
        for _ in range(40):
            connection = hasty.connect()
            connection.sendall(HEAD + b"\r\n")
            if not next_answer(connection).startswith(b"HTTP/1.1 200 "):
                connection.close()
                break
            held.append(connection)
        with hasty.connect() as one_more:
            status, problem = read_answer(one_more)
    finally:
        for connection in held:
            connection.close()

    assert len(held) >= 30
    assert (status, problem["code"]) == (503, "overloaded")


@pytest.mark.parametrize("depth", [65, 1000, 100_000])
@pytest.mark.parametrize("field", ["preferences", "unknown"])
def test_deep_json_is_refused(hasty: LiveServer, depth: int, field: str) -> None:
    body = b'{"email": "a@example.org", "%s": %s1%s}' % (field.encode(), b'{"a":' * depth, b"}" * depth)
    with hasty.client() as client:
        response = client.post(
            USERS.decode(), content=body, headers={"X-API-Key": API_KEY, "Content-Type": "application/json"}
        )

    code = response.json()["code"]
    assert (response.status_code, code) in {
        (400, "malformed_json"),
        (413, "payload_too_large"),
        (422, "validation_failed"),
    }


def test_the_server_is_well_after_all_that(hasty: LiveServer) -> None:
    with hasty.client() as client:
        assert client.get("/api/health/ready").status_code == 200
        assert client.get(USERS.decode()).status_code == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://x/api/health/live", 200),
        (b"HTTP://y:80/api/health/live?", 200),
        (b"http://x", 405),
        (b"http://x?", 405),
    ],
)
def test_a_target_in_absolute_form_is_its_path(hasty: LiveServer, target: bytes, status: int) -> None:
    with hasty.connect() as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert int(next_answer(connection).split()[1]) == status
