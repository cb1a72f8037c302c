"""uvicorn as the service uses it, for what the service is measured against."""

from typing import Any

import uvicorn


def serve(app: Any, port: str) -> None:
    """Serves an ASGI application in one worker on loopback, without an access log, until it is stopped."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(port),
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
    )
