"""Load from wrk: one thread, 32 kept connections, each asking again as soon as it was answered."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.processes import LOOPBACK, processor_seconds
from benchmarks.servers import API_KEY, Server

CONNECTIONS = 32
SCRIPT = Path(__file__).with_name("rotate.lua")


@dataclass(frozen=True)
class Target:
    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    def line(self) -> str:
        extra = "|".join(f"{name}: {value}" for name, value in self.headers.items())
        return f"{self.method}\t{self.path}\t{extra}\t{self.body}\n"


@dataclass(frozen=True)
class Load:
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def processor_us(self) -> float:
        """The server's processor time for one request, in microseconds: what a noisy neighbour changes least."""
        return self.processor_seconds / self.requests * 1e6


# What changes users is asked for in two laps, with another value each: a patch that changes nothing writes nothing.
LAPS = (1_000, 2_000)


def change(path: str, seats: int) -> Target:
    """A merge patch of one value of a user's metadata."""
    body = json.dumps({"metadata": {"seats": seats}}, separators=(",", ":"))
    return Target(path, method="PATCH", headers={"Content-Type": "application/merge-patch+json"}, body=body)


def wrk_program() -> str:
    program = shutil.which("wrk")
    if program is None:
        raise BenchmarkError("wrk is not on PATH: apt-get install wrk, or brew install wrk")
    return program


def write_targets(file: Path, targets: Iterable[Target]) -> Path:
    file.write_text("".join(target.line() for target in targets))
    return file


def load(server: Server, targets: Path, *, seconds: int, pause_ms: int = 0) -> Load:
    """Asks for the targets in turn for `seconds`; BenchmarkError on any answer of 400 and above.

    Each connection waits for `pause_ms` between a response and its next request.
    """
    before = processor_seconds(server.pid)
    seen = run_wrk(server, targets, seconds=seconds, connections=CONNECTIONS, pause_ms=pause_ms)
    if seen["refused"] or seen["broken"] or not seen["requests"]:
        raise BenchmarkError(f"{targets.name} on port {server.port}: {seen}")
    spent = processor_seconds(server.pid) - before
    return Load(int(seen["requests"]), seen["seconds"], seen["p50_ms"], seen["p99_ms"], spent)


def pause_at_half_load(full: Load) -> int:
    """The pause that halves the rate of 32 connections, in whole milliseconds, at least one.

    A connection's turn takes twice as long; a response takes less of it than at the highest load.
    """
    return max(1, round(2 * CONNECTIONS / full.per_second * 1000 - full.p50_ms / 2))


def run_wrk(server: Server, targets: Path, *, seconds: int, connections: int, pause_ms: int = 0) -> dict[str, float]:
    """What wrk saw: `requests` answered in `seconds`, of which `refused` with 400 and above; `broken` connections."""
    command = [wrk_program(), "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s", str(SCRIPT)]
    command += ["-H", f"X-API-Key: {API_KEY}", f"http://{LOOPBACK}:{server.port}", "--"]
    command += [str(targets), str(pause_ms), str(connections)]
    ran = subprocess.run(command, capture_output=True, check=False, text=True, timeout=seconds + 30)
    if ran.returncode != 0:
        raise BenchmarkError(f"wrk ended with {ran.returncode}: {ran.stdout}{ran.stderr}")
    seen: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return seen
