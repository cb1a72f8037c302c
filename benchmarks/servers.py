"""The private servers of a run: PostgreSQL, Redis, the service and the baseline, on loopback."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.client import Client
from benchmarks.errors import BenchmarkError
from benchmarks.processes import LOOPBACK, children_seconds, free_port, running, stop, wait_until_listening
from user_service.postgres.embedded.wheel import Cluster, change_owner, find_account, find_readable_programs

CODE_ROOT = Path(__file__).resolve().parents[1] / "func"
API_KEY = "benchmark-key-of-a-private-run-on-loopback"
ENCRYPTION_KEY = "k1:" + base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True)
class Server:
    port: int
    pid: int

    def client(self) -> Client:
        return Client(self.port, {"X-API-Key": API_KEY})


@dataclass(frozen=True)
class Bench:
    """One run's folder and data servers, and the command that stands for `user-service`."""

    folder: Path
    service_command: Sequence[str]
    database_url: str
    redis_url: str

    def postgres_seconds(self) -> dict[int, float]:
        """The processor time so far of each process of PostgreSQL, without autovacuum, which comes and goes."""
        postmaster = (self.folder / "postgres" / "postmaster.pid").read_text().split()[0]
        return children_seconds(int(postmaster), without="autovacuum")

    def log(self, name: str) -> Path:
        return self.folder / f"{name}-{os.urandom(4).hex()}.log"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A new PostgreSQL with its own data in `folder`; yields its URL. TCP, as a pod reaches one."""
    data, log, port = folder / "postgres", folder / "postgres.log", free_port()
    data.mkdir(mode=0o700)
    account = find_account(data)
    cluster = Cluster(data, find_readable_programs(account, None), account)
    change_owner(data, account)
    cluster.initialise()
    settings = (f"listen_addresses={LOOPBACK}", f"port={port}", "shared_buffers=512MB", "max_wal_size=4GB")
    process = cluster.launch(sockets=".", log=log, settings=settings)
    try:
        wait_until_listening(process, port)
        yield f"postgresql://postgres@{LOOPBACK}:{port}/postgres"
    finally:
        stop(process, by=signal.SIGINT)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis without persistence; yields its URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise BenchmarkError("redis-server is not on PATH: apt-get install redis-server")
    port, log = free_port(), folder / "redis.log"
    command = [program, "--bind", LOOPBACK, "--port", str(port), "--save", "", "--dir", str(folder)]
    with running(command, env={"PATH": os.defpath}, log=log) as process:
        wait_until_listening(process, port)
        yield f"redis://{LOOPBACK}:{port}/0"


def python_env() -> dict[str, str]:
    """The environment of both sides: this checkout's code first, and nothing else that this shell exports."""
    path = os.pathsep.join(filter(None, [str(CODE_ROOT), os.environ.get("PYTHONPATH")]))
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONPATH": path}


def service_env(
    bench: Bench,
    port: int,
    *,
    redis_url: str | None = None,
    access_log: bool = False,
    cache_max_bytes: int | None = None,
    limited: bool = True,
    scim: bool = False,
) -> dict[str, str]:
    """What production has on: authentication, encryption, metrics, and with `limited` a rate limit that is counted."""
    settings = {
        "APP_ENV": "development",
        "HOST": LOOPBACK,
        "PORT": str(port),
        "DATABASE_URL": bench.database_url,
        "DATA_DIR": str(bench.folder / "data"),
        "INTERNAL_API_KEY": API_KEY,
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "RATE_LIMIT_INTERNAL_MAX": "1000000000" if limited else "0",
        "ACCESS_LOG": str(access_log).lower(),
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "json",
    }
    if scim:
        settings["SCIM"] = "true"
    if redis_url is not None:
        settings["REDIS_URL"] = redis_url
    if cache_max_bytes is not None:
        settings["CACHE_MAX_BYTES"] = str(cache_max_bytes)
    return python_env() | settings


def serve_command(bench: Bench) -> list[str]:
    return [*bench.service_command, "serve"]


def baseline_command(port: int, users: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.baseline", str(port), str(users)]


@contextmanager
def service(
    bench: Bench,
    *,
    redis_url: str | None = None,
    access_log: bool = False,
    cache_max_bytes: int | None = None,
    limited: bool = True,
    scim: bool = False,
) -> Iterator[Server]:
    """The service, ready for requests."""
    port, log = free_port(), bench.log("service")
    env = service_env(
        bench,
        port,
        redis_url=redis_url,
        access_log=access_log,
        cache_max_bytes=cache_max_bytes,
        limited=limited,
        scim=scim,
    )
    with running(serve_command(bench), env=env, log=log) as process:
        wait_until_listening(process, port)
        server = Server(port, process.pid)
        with server.client() as client:
            client.get("/api/health/ready")
        yield server


@contextmanager
def baseline(bench: Bench, users: Mapping[str, Any]) -> Iterator[Server]:
    """The bare FastAPI route with these users in memory."""
    port, log = free_port(), bench.log("baseline")
    with running(baseline_command(port, users_file(bench, users)), env=python_env(), log=log) as process:
        wait_until_listening(process, port)
        yield Server(port, process.pid)


def users_file(bench: Bench, users: Mapping[str, Any]) -> Path:
    file = bench.folder / f"users-{len(users)}.json"
    file.write_text(json.dumps(users))
    return file


def migrate(bench: Bench) -> None:
    ran = subprocess.run(
        [*bench.service_command, "migrate"],
        env=service_env(bench, free_port()),
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    if ran.returncode != 0:
        raise BenchmarkError(f"migrate ended with {ran.returncode}: {ran.stderr[-2_000:]}")


@contextmanager
def open_bench(service_command: Sequence[str]) -> Iterator[Bench]:
    """A temporary folder with a migrated PostgreSQL and a Redis; everything is gone on the way out."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="user-service-bench-")))
        database_url = stack.enter_context(postgres(folder))
        redis_url = stack.enter_context(redis(folder))
        bench = Bench(folder, service_command, database_url, redis_url)
        migrate(bench)
        yield bench
