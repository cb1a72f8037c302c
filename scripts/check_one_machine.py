"""Try the image `standalone` and compose.yaml with podman: README's first request, the hardening, what a restart keeps.

Prints a line for each promise and exits 1 if one is broken. Called by scripts/check-one-machine.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from check_image import HARDENED, PODMAN, PYTHON, Outcome, ask, check_stop, free_port, podman, wait_until_ready

ROOT = Path(__file__).resolve().parent.parent
WRITABLE = "import os; print([p for p in ('/', '/etc', '/opt/user-service', '/data', '/tmp') if os.access(p, os.W_OK)])"
SERVICES = ("user-service", "migrate")


def first_request() -> dict[str, Any]:
    """The user that README.md creates."""
    [body] = re.findall(r"-d '(\{\"email\": \"ada@.*?\}\})'", (ROOT / "README.md").read_text(encoding="utf-8"))
    return dict(json.loads(body))


def check_first_request(address: str, api_key: str) -> Iterator[Outcome]:
    user = first_request()
    status, created = ask(f"{address}/api/v1/users", api_key, user)
    yield Outcome("answers README's first request", status == 201, (status, created.get("detail", "")))
    yield from check_kept(address, api_key)


def check_kept(address: str, api_key: str) -> Iterator[Outcome]:
    query = urlencode({"q": "ada lovelace", "metadata.plan": "pro"})
    status, page = ask(f"{address}/api/v1/users?{query}", api_key)
    found = [item.get("email") for item in page.get("items", [])]
    yield Outcome("finds the user by name and metadata", found == [first_request()["email"]], (status, found))


def read_key(container: str) -> str:
    return podman(
        "exec", container, PYTHON, "-c", "print(open('/data/internal-api-key').read().strip())"
    ).stdout.strip()


def check_standalone(image: str) -> Iterator[Outcome]:
    """As docs/one-machine.md starts it; the network aside, and with a bound on memory."""
    name, volume, port = f"standalone-{os.getpid()}", f"standalone-{os.getpid()}", free_port()
    limits = [option for option in HARDENED if not option.startswith("--memory")]
    run = [*limits, "--memory=512m", "--tmpfs=/tmp:size=64m", f"--volume={volume}:/data"]
    run += ["--env=HOST=127.0.0.1", f"--env=PORT={port}"]
    address = f"http://127.0.0.1:{port}"
    keys = []
    podman("volume", "create", volume)
    try:
        for time_ in ("first", "second"):
            podman("run", "--detach", "--name", name, *run, image)
            ready = wait_until_ready(address, seconds=60)
            yield Outcome(
                f"the {time_} container becomes ready", ready, "" if ready else podman("logs", name).stderr[-900:]
            )
            keys.append(read_key(name))
            yield from (check_first_request if time_ == "first" else check_kept)(address, keys[-1])
            if time_ == "first":
                yield from check_hardening(name)
            yield from check_stop(name)
            podman("rm", name)
        yield Outcome("both have the same API key", len(set(keys)) == 1, "")
    finally:
        podman("rm", "--force", name, check=False)
        podman("volume", "rm", "--force", volume, check=False)


def check_hardening(container: str) -> Iterator[Outcome]:
    inside = "import os; print(os.getuid(), os.getgid())"
    ids = podman("exec", container, PYTHON, "-c", inside).stdout.split()
    yield Outcome("runs as uid and gid 1001", ids == ["1001", "1001"], ids)
    writable = podman("exec", container, PYTHON, "-c", WRITABLE).stdout.strip()
    yield Outcome("only /data and /tmp are writable", writable == "['/data', '/tmp']", writable)
    [inspected] = json.loads(podman("container", "inspect", container).stdout)
    host = inspected["HostConfig"]
    hardened = (host["ReadonlyRootfs"], inspected["EffectiveCaps"] or [], "no-new-privileges" in host["SecurityOpt"])
    yield Outcome("has a read-only root, no capability and gains no privileges", hardened == (True, [], True), hardened)


class Compose:
    """compose.yaml by podman-compose on the network of this machine, with images that are here."""

    def __init__(self, folder: Path, service: str, databases: str) -> None:
        self.port, postgres, redis = free_port(), str(free_port()), str(free_port())
        self.project = f"onemachine{os.getpid()}"
        addresses = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": postgres, "REDIS_HOST": "127.0.0.1"}
        addresses["REDIS_PORT"] = redis
        own = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["redis"]["command"]
        override: dict[str, Any] = {name: {"network_mode": "host", "environment": addresses} for name in SERVICES}
        override["user-service"]["environment"] = addresses | {"HOST": "127.0.0.1", "PORT": str(self.port)}
        override["postgres"] = {"network_mode": "host", "environment": {"PGPORT": postgres}}
        override["redis"] = {"network_mode": "host", "command": [*own[:-1], own[-1].rstrip() + f" --port {redis}"]}
        self.override = folder / "override.yaml"
        text = yaml.safe_dump({"services": override})
        # A container on the network of the host publishes no port.
        self.override.write_text(text.replace("  user-service:\n", "  user-service:\n    ports: !reset []\n"))
        images = {"USER_SERVICE_IMAGE": service, "POSTGRES_IMAGE": databases, "REDIS_IMAGE": databases}
        self.environment = os.environ | images

    def run(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        command = ["podman-compose", "--podman-args", " ".join(PODMAN[1:])]
        command += ["--podman-run-args=--ulimit nofile=1024:1024 --ulimit nproc=4096:4096"]
        command += ["-f", "compose.yaml", "-f", str(self.override), "-p", self.project, *arguments]
        result = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        if check and result.returncode:
            raise SystemExit(f"check-one-machine: podman-compose {arguments[0]} failed:\n{result.stderr[-3000:]}")
        return result

    def container(self, service: str) -> str:
        return f"{self.project}_{service}_1"

    def wait_for_postgres(self) -> bool:
        """What `condition: service_healthy` does; podman 4.3 cannot, and runs no health check without systemd."""
        test = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["postgres"]["healthcheck"]["test"]
        deadline = time.monotonic() + 60
        while podman("exec", self.container("postgres"), *test[1:], check=False).returncode:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True


def wait_for_checks(address: str) -> dict[str, Any]:
    """The checks of /api/health/ready; Redis may be connected a moment after the service is ready."""
    deadline = time.monotonic() + 15
    while True:
        health = ask(f"{address}/api/health/ready", "")[1]
        if health.get("status") == "ok" or time.monotonic() > deadline:
            return dict(health.get("checks", {}))
        time.sleep(0.2)


def check_compose(service: str, databases: str) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        compose = Compose(Path(folder), service, databases)
        address = f"http://127.0.0.1:{compose.port}"
        try:
            compose.run("up", "--detach", "postgres", "redis")
            yield Outcome("PostgreSQL's health check passes", compose.wait_for_postgres(), "")
            compose.run("up", "--detach", "--no-deps", "migrate")
            status = podman("wait", compose.container("migrate")).stdout.strip()
            yield Outcome("the migration ends with 0", status == "0", status)
            compose.run("up", "--detach", "--no-deps", "user-service")
            name = compose.container("user-service")
            ready = wait_until_ready(address, seconds=60)
            yield Outcome("compose's service becomes ready", ready, "" if ready else podman("logs", name).stderr[-900:])
            uses = wait_for_checks(address)
            yield Outcome("it uses PostgreSQL and Redis", uses == {"database": "ok", "redis": "ok"}, uses)
            yield from check_first_request(address, read_key(name))
            yield from check_hardening(name)
            yield from check_stop(name)
        finally:
            compose.run("down", "--volumes", check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for image in ("service", "standalone", "databases"):
        parser.add_argument(f"--{image}", required=True)
    arguments = parser.parse_args()
    if shutil.which("podman-compose") is None:
        raise SystemExit("check-one-machine: podman-compose is not installed; scripts/install-tools brings it")
    broken = 0
    for outcomes in (check_standalone(arguments.standalone), check_compose(arguments.service, arguments.databases)):
        for promise, kept, seen in outcomes:
            broken += not kept
            detail = f": {seen}" if seen not in ("", []) else ""
            print(f"{'ok  ' if kept else 'FAIL'} {promise}{detail}", flush=True)
    print(f"{broken} promises broken" if broken else "one machine is enough")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
