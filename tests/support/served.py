"""The service as a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.app_fixtures import API_KEY, ENCRYPTION_KEY
from support.ports import free_port


class Served:
    """`user-service serve` in a process of its own, over a database of the test's."""

    def __init__(self, database_url: str, folder: Path, **settings: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        own = {
            "DATABASE_URL": database_url,
            "DATA_DIR": str(folder),
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "INTERNAL_API_KEY": API_KEY,
            "ENCRYPTION_KEY": ENCRYPTION_KEY,
            "LOG_LEVEL": "debug",
            "APP_ENV": "production",
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "user_service.cli.main", "serve"],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **own},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/api/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def served(database_url: str, tmp_path: Path) -> Iterator[Served]:
    served = Served(database_url, tmp_path)
    try:
        served.wait_until_ready()
        yield served
    finally:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()
