"""Try a running service from outside: health, the refusal of strangers, and a user's way through it.

Standard library only, so that it runs anywhere; called by scripts/smoke-test, scripts/deploy.py and `helm test`. The
API key comes from USER_SERVICE_API_KEY, else from INTERNAL_API_KEY, or from the file that such a variable with _FILE
names. Leaves nothing behind: the user that it creates is purged.
"""

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    address: str
    host: str | None
    api_key: str

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, key: bool = True) -> tuple[int, Any]:
        """The status and the decoded body; status 0 if nothing answers."""
        request = urllib.request.Request(
            self.address.rstrip("/") + path, data=None if body is None else json.dumps(body).encode(), method=method
        )
        request.add_header("Content-Type", "application/json")
        if self.host:
            request.add_header("Host", self.host)
        if key:
            request.add_header("X-API-Key", self.api_key)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, decoded(response.read())
        except urllib.error.HTTPError as refusal:
            return refusal.code, decoded(refusal.read())
        except OSError as error:
            return 0, str(error)


def decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content[:200].decode(errors="replace")


class BrokenPromiseError(Exception):
    """The service answered something else than it promises."""


def expect(promise: str, response: tuple[int, Any], status: int) -> Any:
    if response[0] != status:
        raise BrokenPromiseError(f"{promise}: {status} was expected, {response[0]} came: {response[1]}")
    print(f"ok   {promise}")
    return response[1]


def wait_until_ready(target: Target, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (response := target.ask("GET", "/api/health/ready", key=False))[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    expect("it is ready", response, 200)


def check_reading(target: Target) -> None:
    expect("it is alive", target.ask("GET", "/api/health/live", key=False), 200)
    expect("a stranger is refused", target.ask("GET", "/api/v1/users?limit=1", key=False), 401)
    expect("users can be listed", target.ask("GET", "/api/v1/users?limit=1"), 200)
    expect("what does not exist is not found", target.ask("GET", f"/api/v1/users/{uuid.uuid4()}"), 404)


def check_writing(target: Target) -> None:
    name = f"smoke-{uuid.uuid4().hex}"
    created = expect("a user is created", target.ask("POST", "/api/v1/users", {"email": f"{name}@example.org"}), 201)
    path = f"/api/v1/users/{created['id']}"
    try:
        read = expect("and read", target.ask("GET", path), 200)
        if read["email"] != f"{name}@example.org":
            raise BrokenPromiseError("another e-mail came back than was sent")
        expect("and changed", target.ask("PATCH", path, {"given_name": "Smoke"}), 200)
        expect("and deleted", target.ask("DELETE", path), 204)
    finally:
        target.ask("DELETE", f"{path}?purge=true")
    expect("and gone", target.ask("GET", path), 404)


def read_api_key() -> str:
    """The first key that is given, of several that commas separate; empty if none is."""
    for name in ("USER_SERVICE_API_KEY", "INTERNAL_API_KEY"):
        file = Path(os.environ.get(f"{name}_FILE") or "/nowhere")
        keys = os.environ.get(name) or (file.read_text(encoding="utf-8") if file.is_file() else "")
        if keys:
            return keys.split(",")[0].strip()
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True, help="for example http://127.0.0.1:3002")
    parser.add_argument("--host", help="the Host header, where a gateway routes by it")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="how long to wait for readiness")
    parser.add_argument("--read-only", action="store_true", help="create nothing")
    options = parser.parse_args()
    target = Target(options.address, options.host, read_api_key())
    try:
        wait_until_ready(target, seconds=options.wait)
        check_reading(target)
        if not options.read_only:
            check_writing(target)
    except BrokenPromiseError as broken:
        print(f"FAIL {broken}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
