"""Knative's queue-proxy in front of a service, as it stands in a pod."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from support.waiting import PATIENCE_SECONDS

# Its own ports, which can't be chosen.
ADMIN_PORT: Final = 8022
ACTIVATOR: Final = {"K-Network-Probe": "queue", "User-Agent": "Knative-Activator-Probe"}


def find_queue_proxy() -> str | None:
    """`QUEUE_PROXY`, or `queue-proxy` on PATH: `go install knative.dev/serving/cmd/queue@latest` makes a `queue`."""
    return os.environ.get("QUEUE_PROXY") or shutil.which("queue-proxy")


class QueueProxy:
    def __init__(self, program: str, folder: Path, *, port: int, user_port: int, concurrency: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "queue-proxy.log"
        probe = {"httpGet": {"path": "/api/health/ready", "host": "127.0.0.1", "port": user_port, "scheme": "HTTP"}}
        environ = {
            "CONTAINER_CONCURRENCY": str(concurrency),
            "QUEUE_SERVING_PORT": str(port),
            "QUEUE_SERVING_TLS_PORT": "0",
            "USER_PORT": str(user_port),
            "REVISION_TIMEOUT_SECONDS": "60",
            "SERVING_NAMESPACE": "microservices",
            "SERVING_CONFIGURATION": "user-service-events",
            "SERVING_REVISION": "user-service-events-00001",
            "SERVING_POD": "user-service-events-00001-pod",
            "SERVING_POD_IP": "127.0.0.1",
            "SERVING_LOGGING_CONFIG": "",
            "SERVING_LOGGING_LEVEL": "",
            "SERVING_READINESS_PROBE": json.dumps({**probe, "successThreshold": 1}),
            "OBSERVABILITY_CONFIG": "{}",
            "PATH": os.environ["PATH"],
        }
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [program], env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def answers(self) -> bool:
        """As the activator probes it."""
        try:
            probe = httpx.get(self.url, headers=ACTIVATOR)
        except httpx.TransportError:
            return False
        return probe.status_code == 200

    def wait_for_drain(self) -> int:
        """What the kubelet asks before it stops the service's container."""
        return httpx.get(f"http://127.0.0.1:{ADMIN_PORT}/wait-for-drain", timeout=120).status_code


@contextmanager
def queue_proxy(program: str, folder: Path, **options: int) -> Iterator[QueueProxy]:
    proxy = QueueProxy(program, folder, **options)
    try:
        proxy.wait_until_ready()
        yield proxy
    finally:
        if proxy.process.poll() is None:
            proxy.process.kill()
        proxy.process.wait()
