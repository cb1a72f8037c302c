"""Requests belong to the trace of the program that makes them, where it uses OpenTelemetry."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from support.process import ServiceProcess
from support.settings import API_KEY


def test_a_write_has_the_trace_of_the_current_span(client: Any, address: Callable[[], str]) -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("sign-up") as span:
        user = client.users.create(email=address())

    (entry,) = client.users.audit(user)
    assert entry.traceparent.split("-")[1] == f"{span.get_span_context().trace_id:032x}"


def test_a_program_without_opentelemetry_does_not_load_it(service: ServiceProcess) -> None:
    program = f"""
import sys
from user_service_client import Client
with Client({service.url!r}, api_key={API_KEY!r}) as client:
    client.users.count()
assert not [name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "pydantic", "user_service")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
