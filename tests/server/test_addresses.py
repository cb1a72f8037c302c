"""The addresses that the service listens on."""

import httpx

from support.live_server import live
from support.ports import free_port
from user_service.settings import Settings


def test_two_colons_are_every_address_of_both_families(settings: Settings) -> None:
    """A pod of a cluster with IPv6 only is probed by its IPv6 address, and queue-proxy calls 127.0.0.1."""
    port = free_port()
    with live(settings, host="::", port=port):
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/api/health/live").status_code == 200
