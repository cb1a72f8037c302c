"""`user-service serve` on its defaults, as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.ports import free_port
from support.process import command


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health/ready") as response:
                assert response.status == 200
                return
        except urllib.error.URLError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("request_to_stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_takes_its_database_down_with_it(tmp_path: Path, request_to_stop: signal.Signals) -> None:
    port = free_port()
    unset = ("DATABASE_URL", "REDIS_URL")
    environ = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-c", "import sys; from user_service.cli.main import main; sys.exit(main())"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "serve"],
            env={**environ, "DATA_DIR": str(tmp_path / "data"), "PORT": str(port)},
            stderr=log,
            start_new_session=True,
        )
    running = tmp_path / "data/postgres/postmaster.pid"
    try:
        wait_until_ready(port, process)
        assert running.exists()

        os.killpg(process.pid, request_to_stop)
        process.wait(30)

        assert not running.exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if running.exists():
            os.kill(int(running.read_text().split("\n", 1)[0]), signal.SIGINT)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_a_port_in_use_is_named_before_a_database_starts(tmp_path: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]

        result = command(tmp_path, "serve", HOST=host, PORT=str(port), APP_ENV="development")

    assert result.returncode == 1
    assert result.stderr == (
        f"Port {port}: address already in use. Stop the process that listens there, or set PORT to another one.\n"
    )
    assert not (tmp_path / "data").exists()
