"""Processes that a benchmark starts, and stops by their own id."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.errors import BenchmarkError, list_notes

STOP_SECONDS = 15.0
LOOPBACK = "127.0.0.1"

# Below the range that Linux takes outgoing ports from: a poller that connects to a port of that range over
# and over meets itself one day, and then the server can't bind.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port that nothing listens on, so far."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise BenchmarkError(f"no free port between {PORTS.start} and {PORTS.stop} on {LOOPBACK}")


@contextmanager
def running(command: Sequence[str], *, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of `command`, its output in `log`; stopped on the way out."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    except BenchmarkError as error:
        if not list_notes(error):  # the innermost process is the one that failed
            error.add_note(f"The end of what {' '.join(command)} wrote:\n{end_of_log(log)}")
        raise
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], *, by: signal.Signals = signal.SIGTERM) -> None:
    """The signal, and SIGKILL for what is still there after `STOP_SECONDS`."""
    process.send_signal(by)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_of_log(log: Path) -> str:
    return log.read_text(errors="replace")[-2_000:]


def wait_until_listening(process: subprocess.Popen[bytes], port: int, *, seconds: float = 30.0) -> None:
    """Returns when `port` accepts a connection; BenchmarkError when the process ends or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchmarkError(f"it ended with {process.returncode} before it listened on port {port}")
        try:
            socket.create_connection((LOOPBACK, port), timeout=1.0).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise BenchmarkError(f"it does not listen on port {port} after {seconds:.0f} s")


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15 of stat)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def children_seconds(pid: int, *, without: str) -> dict[int, float]:
    """The same for each child of a process that runs now, by its id, except those with `without` in their title."""
    seconds = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):  # it has ended meanwhile
            if without not in Path(f"/proc/{child}/cmdline").read_text():
                seconds[int(child)] = processor_seconds(int(child))
    return seconds
