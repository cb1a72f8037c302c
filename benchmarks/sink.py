"""A sink that accepts every event, and tells when the first and the last one arrived.

Run by `python -m benchmarks.sink PORT`. `GET` responds with the number of events and both times of the monotonic clock,
and forgets them; anything else is an event.
"""

import json
import sys
import time
from typing import Any

from benchmarks.bare_server import serve

EMPTY = {"events": 0, "first": 0.0, "last": 0.0}
seen: dict[str, float] = dict(EMPTY)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["method"] == "GET":
        status, body = 200, json.dumps(seen).encode()
        seen.update(EMPTY)
    else:
        while (await receive()).get("more_body"):
            pass
        status, body = 202, b""
        now = time.monotonic()
        seen["first"] = seen["first"] or now
        seen["last"] = now
        seen["events"] += 1
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main(port: str) -> None:
    serve(app, port)


if __name__ == "__main__":
    main(*sys.argv[1:])
