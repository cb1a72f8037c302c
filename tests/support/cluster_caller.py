"""Runs in a pod beside the service: sends requests, or a constant load, and prints what came back as JSON.

Standard library only, because it runs in the service's own image. The task is the first argument:
{"requests": [{"method", "url", "body", "headers"}]} or {"load": {"host", "port", "seconds", "prefix"}}.
"""

import http.client
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

KEY = {"X-API-Key": os.environ["INTERNAL_API_KEY"], "Content-Type": "application/json"}


def ask(request: dict[str, Any]) -> dict[str, Any]:
    body = request.get("body")
    content = None if body is None else json.dumps(body).encode()
    headers = KEY | request.get("headers", {})
    message = urllib.request.Request(request["url"], data=content, headers=headers, method=request.get("method", "GET"))
    try:
        with urllib.request.urlopen(message, timeout=60) as response:
            return {"status": response.status, "body": decoded(response.read())}
    except urllib.error.HTTPError as refusal:
        return {"status": refusal.code, "body": decoded(refusal.read())}
    except OSError as error:
        return {"status": 0, "body": str(error)}


def decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


class Load:
    """Users created one after another over fresh and over kept-alive connections, without a retry."""

    def __init__(self, host: str, port: int, seconds: float, prefix: str) -> None:
        self.host, self.port, self.prefix = host, port, prefix
        self.end = time.monotonic() + seconds
        self.acknowledged: list[str] = []
        self.failures: list[str] = []

    def run(self) -> dict[str, list[str]]:
        threads = [threading.Thread(target=self.write, args=(number, number % 2 == 0)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"acknowledged": self.acknowledged, "failures": self.failures}

    def write(self, number: int, keep_alive: bool) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        count = 0
        while time.monotonic() < self.end:
            count += 1
            name = f"{self.prefix}-{number}-{count}"
            content = json.dumps({"external_id": name, "email": f"{name}@example.org"})
            try:
                connection.request("POST", "/api/v1/users", body=content, headers=KEY)
                response = connection.getresponse()
                response.read()
                if response.status == 201:
                    self.acknowledged.append(name)
                else:
                    self.failures.append(f"{name}: {response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{name}: {error!r}")
                connection.close()
            if not keep_alive:
                connection.close()
            time.sleep(0.02)


def main() -> None:
    task = json.loads(sys.argv[1])
    result = Load(**task["load"]).run() if "load" in task else [ask(request) for request in task["requests"]]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
