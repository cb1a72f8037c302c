"""The front doors as processes: each takes a request and gives an answer."""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import httpx

from support.lambda_payloads import Payload
from support.ports import free_port
from support.process import serving
from support.settings import make_environ
from support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
# What kn func's scaffolding runs.
MAIN = """
from func_python.http import serve
from function import new as handler

if __name__ == "__main__":
    serve(handler)
"""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Door(Protocol):
    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


class HttpDoor:
    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=PATIENCE_SECONDS)

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        response = self.client.request(method, target, headers=dict(headers), content=body)
        return Answer(response.status_code, dict(response.headers), response.content)


@contextmanager
def uvicorn_door(folder: Path, **environ: str) -> Iterator[Door]:
    with serving(folder, **environ) as service:
        door = HttpDoor(service.url)
        yield door
        door.client.close()


class LambdaDoor:
    """The handler in a process of its own, asked through one kind of payload."""

    def __init__(self, process: "subprocess.Popen[str]", payload: Payload) -> None:
        self.process = process
        self.payload = payload

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        response = self.invoke(self.payload(method, target, headers, body))
        content = response.get("body") or ""
        decoded = base64.b64decode(content) if response["isBase64Encoded"] else content.encode()
        return Answer(response["statusCode"], response.get("headers") or {}, decoded)

    def invoke(self, event: dict[str, object] | None) -> dict[str, object]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(event) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the runtime ended; its log says why"
        response: dict[str, object] = json.loads(line)
        return response


@contextmanager
def lambda_door(folder: Path, payload: Payload, **environ: str) -> Iterator[LambdaDoor]:
    with (folder / "lambda.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(Path(__file__).with_name("lambda_runtime.py"))],
            env=make_environ(folder, environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield LambdaDoor(process, payload)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0, (folder / "lambda.log").read_text()
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def install_function(folder: Path) -> Path:
    """A fresh environment with the project installed as the scaffolding installs it; gives its Python.

    What the project depends on comes from the environment of the tests.
    """
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    here = Path(next(path for path in sys.path if path.endswith("site-packages")))
    site = next((folder / "lib").glob("python*/site-packages"))
    # Paths only: a link would bring the tests' own editable install of the project with it.
    (site / "dependencies.pth").write_text(f"{here}\n")
    # Without the cache, which takes a folder whose name has a hyphen for a version that does not change.
    pip = ["-m", "pip", "install", "-q", "--no-cache-dir", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [python, *pip, "--ignore-installed", f"function @ {ROOT.as_uri()}"],
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_SECONDS * 3,
    )
    return python


def install_function_once(folder: Path) -> Path:
    """The environment in this folder, made by whichever process of the tests comes first."""
    folder.mkdir(exist_ok=True)
    environment, done = folder / "environment", folder / "done"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(environment, ignore_errors=True)
            install_function(environment)
            done.touch()
    return environment / "bin" / "python"


class FunctionProcess:
    """The installed function behind func-python's middleware."""

    def __init__(self, python: Path, folder: Path, environ: Mapping[str, str]) -> None:
        self.log = folder / "function.log"
        self.port = free_port()
        given = make_environ(folder, {**environ, "LISTEN_ADDRESS": f"127.0.0.1:{self.port}", "PORT": "1"})
        given.pop("PYTHONPATH", None)
        main = folder / "service.py"
        main.write_text(MAIN)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [python, "-W", "error::ResourceWarning", str(main)],
                env=given, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.is_ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/readiness").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def function_process(python: Path, folder: Path, **environ: str) -> Iterator[FunctionProcess]:
    function = FunctionProcess(python, folder, environ)
    try:
        yield function
    finally:
        if function.process.poll() is None:
            function.process.kill()
            function.process.wait()


@contextmanager
def function_door(python: Path, folder: Path, **environ: str) -> Iterator[Door]:
    with function_process(python, folder, **environ) as function:
        function.wait_until_ready()
        door = HttpDoor(function.url)
        yield door
        door.client.close()
        function.stop()


def door_environ(database_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "ACCESS_LOG": "false", "LOG_LEVEL": "info", "PATH": os.environ["PATH"]}
