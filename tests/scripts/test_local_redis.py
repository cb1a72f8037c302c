"""The Redis of the component local-data, by the command that its manifest gives."""

import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import manifests
import pytest
from manifests import named, render

from support.ports import free_port
from support.servers import redis_program
from support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.skipif(
    not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize"
)
PASSWORD = "a-password-of-the-tests"


def command_on(folder: Path) -> list[str]:
    """The container's command, with its mounts below `folder`."""
    redis = named(render("k8s-fallback/overlays/dev"), "Deployment", "redis")["spec"]["template"]["spec"]
    [container] = redis["containers"]
    command = [str(word) for word in container["command"]]
    for mount in container["volumeMounts"]:
        inside = folder / mount["name"]
        inside.mkdir()
        command = [word.replace(mount["mountPath"], str(inside)) for word in command]
    return command


def ask(port: int, *lines: str) -> str:
    """All that Redis responds to the lines; empty while nothing listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall("".join(f"{line}\r\n" for line in (*lines, "QUIT")).encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    except ConnectionError:
        return ""


def list_arguments(pid: int) -> str:
    """What the list of processes shows of one."""
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


def test_redis_itself_gets_the_signal_to_stop_and_asks_for_the_password(tmp_path: Path) -> None:
    port = free_port()
    programs = tmp_path / "programs"
    programs.mkdir()
    # The container's port is its own; here it must be a free one.
    (programs / "redis-server").write_text(f'#!/bin/sh\nexec {redis_program()} "$@" --port {port}\n')
    (programs / "redis-server").chmod(stat.S_IRWXU)
    command = command_on(tmp_path)
    (tmp_path / "secrets" / "REDIS_PASSWORD").write_text(PASSWORD)
    environ = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: "NOAUTH" in ask(port, "PING"), "Redis")
        told = ask(port, f"AUTH {PASSWORD}", "INFO server", "CONFIG GET maxmemory-policy")

        assert f"process_id:{process.pid}\r\n" in told
        assert "allkeys-lru" in told
        assert PASSWORD not in list_arguments(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
