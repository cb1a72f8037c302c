"""Spans as a collector receives them from a running service."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.api import USERS, create_user, user_url
from support.collector import Collector, collecting
from support.event_sink import Sink, running_sink
from support.load import send_batch_event
from support.process import ServiceProcess, serving
from support.servers import PostgresServer, RedisServer
from support.waiting import PATIENCE_SECONDS

PARENT = "b7ad6b7169203331"
READ = "GET /api/v1/users/{user_id}"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with running_sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def service(
    collector: Collector,
    sink: Sink,
    postgres: PostgresServer,
    migrated_template: str,
    shared_redis: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServiceProcess]:
    url = postgres.create_database("tracing", template=migrated_template)
    environ = {
        "APP_ENV": "production",
        "DATABASE_URL": url,
        "REDIS_URL": shared_redis.url,
        "REDIS_KEY_PREFIX": "tracing:",
        "EVENT_SINK_URL": sink.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with serving(tmp_path_factory.mktemp("tracing"), **environ) as service:
        yield service
    postgres.drop_database("tracing")


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def traced(client: httpx.Client, method: str, path: str, **options: Any) -> tuple[httpx.Response, str]:
    """The answer to a request in a trace of its own, and the trace's id."""
    trace_id = uuid4().hex
    headers = {"traceparent": f"00-{trace_id}-{PARENT}-01", **options.pop("headers", {})}
    return client.request(method, path, headers=headers, **options), trace_id


def test_a_request_is_a_span_in_its_callers_trace(client: httpx.Client, collector: Collector) -> None:
    response, trace_id = traced(client, "GET", user_url(create_user(client)))

    span = collector.wait_for(trace_id, READ)

    assert (span.kind, span.parent_id, span.failed) == ("server", PARENT, False)
    assert span.attributes["http.route"] == "/api/v1/users/{user_id}"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["user_service.request_id"] == response.headers["x-request-id"]
    assert span.resource["service.name"] == "user-service"
    assert response.headers["traceparent"] == f"00-{trace_id}-{span.span_id}-01"


def test_a_read_shows_redis_and_postgresql_below_its_request(client: httpx.Client, collector: Collector) -> None:
    # Redis is asked once the service knows PostgreSQL's time from a user that it has read.
    client.get(user_url(create_user(client)), headers={"Cache-Control": "no-cache"})
    redis = None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while redis is None:
        assert time.monotonic() < deadline, "no read asked Redis"
        response, trace_id = traced(client, "GET", f"{USERS}/{uuid4()}")
        assert response.status_code == 404
        request = collector.wait_for(trace_id, READ)
        statement = collector.wait_for(trace_id, "SELECT")
        # Ended before its request did, and so was sent with it or before it.
        redis = collector.find(trace_id, "redis get")
    assert {redis.parent_id, statement.parent_id} == {request.span_id}
    assert {redis.kind, statement.kind} == {"client"}
    assert statement.attributes["db.query.text"].startswith("SELECT")


def test_a_write_shows_its_statements_and_none_of_its_values(client: httpx.Client, collector: Collector) -> None:
    body = {"email": "katherine.johnson@example.org", "given_name": "Katherine", "phone": "+12025550143"}

    response, trace_id = traced(client, "POST", USERS, json=body)

    assert response.status_code == 201
    request = collector.wait_for(trace_id, "POST /api/v1/users")
    written = collector.wait_for(trace_id, "WITH")
    assert written.parent_id == request.span_id
    assert "INSERT INTO users" in written.attributes["db.query.text"]
    told = repr([span for span in collector.spans if span.trace_id == trace_id])
    assert [value for value in body.values() if value in told] == []


def test_a_change_is_recorded_under_the_span_that_made_it(
    client: httpx.Client, collector: Collector, postgres: PostgresServer
) -> None:
    response, trace_id = traced(client, "POST", USERS, json={"email": f"{uuid4().hex}@example.org"})
    request = collector.wait_for(trace_id, "POST /api/v1/users")

    kept = postgres.execute(
        f"\\connect tracing\nSELECT traceparent FROM user_changes WHERE user_id = '{response.json()['id']}'"
    )

    assert kept.strip() == f"00-{trace_id}-{request.span_id}-01"


def test_an_event_is_one_trace_from_the_broker_to_the_sink(
    client: httpx.Client, collector: Collector, sink: Sink
) -> None:
    trace_id = uuid4().hex

    response = send_batch_event(client, traceparent=f"00-{trace_id}-{PARENT}-01")

    assert response.status_code == 200
    processed = collector.wait_for(trace_id, "process org.userservice.batch.create.v1")
    inserted = collector.wait_for(trace_id, "INSERT")
    published = collector.wait_for(trace_id, "publish created")
    (told,) = (received.headers for received in sink.taken if trace_id in received.headers["traceparent"])
    assert (processed.kind, processed.parent_id) == ("consumer", PARENT)
    assert inserted.parent_id == processed.span_id
    assert (published.kind, published.parent_id) == ("producer", processed.span_id)
    assert published.attributes["user_service.outcome"] == "published"
    assert told["traceparent"] == f"00-{trace_id}-{published.span_id}-01"
    assert told["ce-traceparent"] == f"00-{trace_id}-{processed.span_id}-01"


def test_a_trace_that_the_caller_does_not_sample_is_not_sent(client: httpx.Client, collector: Collector) -> None:
    path = user_url(create_user(client))
    quiet = uuid4().hex

    response = client.get(path, headers={"traceparent": f"00-{quiet}-{PARENT}-00"})
    _, loud = traced(client, "GET", path)
    collector.wait_for(loud, READ)

    assert response.headers["traceparent"].split("-")[1::2] == [quiet, "00"]
    assert [span for span in collector.spans if span.trace_id == quiet] == []


def test_probes_and_scrapes_make_no_spans(client: httpx.Client, collector: Collector) -> None:
    for path in ("/api/health/live", "/api/health/ready", "/metrics"):
        assert client.get(path).status_code == 200
    _, trace_id = traced(client, "GET", "/openapi.json")
    collector.wait_for(trace_id, "GET /openapi.json")

    routes = {span.attributes.get("http.route") for span in collector.spans}

    assert routes.isdisjoint({"/api/health/live", "/api/health/ready", "/metrics"})


def test_a_fault_marks_its_span(client: httpx.Client, collector: Collector) -> None:
    response, trace_id = traced(client, "GET", USERS, headers={"X-API-Key": "wrong"})

    span = collector.wait_for(trace_id, "GET unmatched")

    assert response.status_code == 401
    assert not span.failed
    assert "user_service.principal_kind" not in span.attributes


def imported_by(statement: str) -> list[str]:
    """What of OpenTelemetry is loaded after a statement, with a collector named and tracing disabled."""
    code = (
        f"import sys; {statement}\n"
        "from user_service.settings import Settings; from user_service.observability.tracing import open_tracing\n"
        "settings = {'OTEL_SDK_DISABLED': 'true', 'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://localhost:4318'}\n"
        "assert open_tracing(Settings.load(settings)) is None\n"
        "assert open_tracing(Settings.load({})) is None\n"
        "print(*(name for name in sys.modules if name.split('.')[0] == 'opentelemetry'))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_fast_path_imports_nothing_of_opentelemetry() -> None:
    assert imported_by("import user_service.app") == []


def test_the_api_imports_no_sdk_and_no_exporter_when_tracing_is_off() -> None:
    """FastAPI itself imports OpenTelemetry's interface."""
    heavy = {"opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto"}

    assert heavy.isdisjoint(imported_by("import user_service.web.api"))


def test_tracing_without_its_extra_is_refused_with_the_remedy() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from user_service.errors import ConfigurationError\n"
        "from user_service.settings import Settings; from user_service.observability.tracing import open_tracing\n"
        "try: open_tracing(Settings.load({'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://localhost:4318'}))\n"
        "except ConfigurationError as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("OTEL_EXPORTER_OTLP_ENDPOINT: tracing needs opentelemetry")
    assert "install the extra `tracing`" in done.stdout


def test_a_collector_that_is_away_holds_nothing_back(
    postgres: PostgresServer, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("away")
    environ = {"APP_ENV": "production", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with serving(folder, DATABASE_URL=database_url, **environ) as service:
        with service.client() as client:
            assert client.get(user_url(create_user(client))).status_code == 200
        assert service.stop() == 0
