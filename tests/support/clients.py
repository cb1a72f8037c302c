"""The clients of clients/python behind one face, and their command `users`."""

import asyncio
import fcntl
import inspect
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.settings import API_KEY
from support.waiting import PATIENCE_SECONDS
from user_service_client import AsyncClient, Client, Retry

# Faults are met many times in a test; each is tried again at once.
QUICK = Retry(deadline_seconds=60, first_pause_seconds=0.001, longest_pause_seconds=0.01)


class Blocking:
    """An object of the asynchronous client whose methods block."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.inner = inner
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return Blocking(found, self.loop)

        def method(*arguments: Any, **options: Any) -> Any:
            result = found(*arguments, **options)
            if inspect.isawaitable(result):
                return self.loop.run_until_complete(result)
            return self.iterate(result) if isinstance(result, AsyncIterator) else Blocking(result, self.loop)

        return method

    def iterate(self, values: AsyncIterator[Any]) -> Iterator[Any]:
        async def take() -> list[Any]:
            return [value async for value in first(values)]

        while taken := self.loop.run_until_complete(take()):
            yield from taken


async def first(values: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The next value, if there is one."""
    with_end = object()
    value = await anext(values, with_end)
    if value is not with_end:
        yield value


@contextmanager
def open_client(kind: str, url: str, **options: Any) -> Iterator[Any]:
    """A client of a kind, `blocking` or `async`; its methods block."""
    options = {"api_key": API_KEY, "retry": QUICK, **options}
    if kind == "blocking":
        with Client(url, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        client = runner.run(AsyncClient(url, **options).__aenter__())
        try:
            yield Blocking(client, runner.get_loop())
        finally:
            runner.run(client.close())


def users_environ(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the command `users`: a home of its own, and no keyring unless `environ` names one."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    own = {"HOME": str(folder), "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
    return {**kept, **own, **environ}


def run_users(folder: Path, *arguments: str, given: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `users` in a pipe to its end; `given` is its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "user_service_client.command.main", *arguments],
        env=users_environ(folder, environ),
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def run_users_on_terminal(folder: Path, *arguments: str, given: str = "", **environ: str) -> tuple[int, str]:
    """The same on a terminal of 100 columns; gives the exit status and what the terminal has received."""
    own, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "user_service_client.command.main", *arguments],
        env=users_environ(folder, environ),
        cwd=folder,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    os.write(own, given.encode())
    received = b""
    # Linux gives EIO once the last program on the terminal has ended.
    with suppress(OSError):
        while piece := os.read(own, 65536):
            received += piece
    os.close(own)
    return process.wait(PATIENCE_SECONDS), received.decode().replace("\r\n", "\n")
