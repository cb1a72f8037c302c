"""The service as a process of its own."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.settings import API_KEY, make_environ
from support.waiting import PATIENCE_SECONDS

# Runs a command of the command line in this process; returns its status and its output.
RunCommand = Callable[..., tuple[int, str]]

ADDRESS = re.compile(r"running on (http://127\.0\.0\.1:[0-9]+)")


class ServiceProcess:
    """`user-service serve` on a free port; it logs to the file `log`."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.log = folder / f"service-{uuid4().hex[:8]}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "user_service.cli.main", "serve"],
                env=make_environ(folder, {"HOST": "127.0.0.1", "PORT": "0", **environ}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def read_log(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """The log's lines; each has to be JSON."""
        return [json.loads(line) for line in self.read_log().splitlines()]

    def wait_for(self, text: str) -> None:
        """Returns when the text is in the log."""
        self.wait_for_match(re.compile(re.escape(text)))

    def wait_for_match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """The first place of the log that matches."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := pattern.search(self.read_log())) is None:
            assert self.process.poll() is None, self.read_log()
            assert time.monotonic() < deadline, self.read_log()
            time.sleep(0.02)
        return found

    @property
    def url(self) -> str:
        """The address; waits until the service listens."""
        return self.wait_for_match(ADDRESS)[1]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": API_KEY}, timeout=PATIENCE_SECONDS)

    def async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"X-API-Key": API_KEY}, timeout=PATIENCE_SECONDS)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stops it as an operator does; gives the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def serving(folder: Path, **environ: str) -> Iterator[ServiceProcess]:
    service = ServiceProcess(folder, environ)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.signal(signal.SIGCONT)
            service.stop()


def command(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `user-service` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "user_service.cli.main", *arguments],
        env=make_environ(folder, environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture
def service_process(database_url: str, tmp_path: Path) -> Iterator[ServiceProcess]:
    """A ready service in production's strictness, which logs all that it can."""
    with serving(tmp_path, DATABASE_URL=database_url, APP_ENV="production", LOG_LEVEL="debug") as service:
        with service.client() as client:
            while client.get("/api/health/ready").status_code != 200:
                time.sleep(0.05)
        yield service
