"""AWS Lambda: `user_service.entrypoints.aws_lambda.handler`, for API Gateway (HTTP and REST) and function URLs.

Mangum would enter and leave the lifespan in every invocation, and open the pools each time. The application is started
once per execution environment instead, on an event loop that lives as long, and Mangum runs requests on that loop.

Between invocations the environment is frozen, so nothing is relayed in the background. An invocation relays the events
that it has committed before it ends, for `RELAY_BUDGET_SECONDS` at most; the next one, a ping or `user-service relay`
relays the rest. A ping is an event of a schedule, or one that keeps the environment warm.
"""

import asyncio
import os
import re
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, unquote

from mangum import Mangum

from user_service.app import Application, Receive, Scope, Send, create_app
from user_service.errors import DatabaseUnavailable
from user_service.settings import Settings

RELAY_BUDGET_SECONDS: Final = 2.0
# Sources of EventBridge's rules and schedules, and what plugins that keep functions warm send.
SCHEDULERS: Final = frozenset({"aws.events", "aws.scheduler"})
WARM_UP: Final = re.compile(r"warm|ping|keep.?alive", re.IGNORECASE)
EMPTY_STATUSES: Final = frozenset({202, 204, 304})
# Mangum passes on responses of these types as text, and others in base64.
TEXT_TYPES: Final = [
    "text/",
    "application/json",
    "application/problem+json",
    "application/cloudevents",
    "application/openmetrics-text",
]


class Environment:
    """An execution environment: an event loop, and the application that was started on it."""

    def __init__(self, settings: Settings) -> None:
        self.loop = asyncio.new_event_loop()
        self.application: Application = create_app(settings)
        self.loop.run_until_complete(self.application.start(background=False))
        # Mangum uses the current loop, here and in each request.
        asyncio.set_event_loop(self.loop)
        self.adapter = Mangum(self.serve, lifespan="off", text_mime_types=TEXT_TYPES)

    def handle(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        asyncio.set_event_loop(self.loop)
        if is_ping(event):
            return self.answer_ping()
        response: dict[str, Any] = self.adapter(event, context)
        if response["statusCode"] in EMPTY_STATUSES:
            # Mangum adds a content type to every response.
            response.get("headers", {}).pop("content-type", None)
        self.loop.run_until_complete(self.application.resources.relay_committed(seconds=RELAY_BUDGET_SECONDS))
        return response

    def answer_ping(self) -> dict[str, Any]:
        """Relays events that wait, also those that were committed elsewhere."""
        with suppress(DatabaseUnavailable):
            self.loop.run_until_complete(self.application.resources.relay_now(seconds=RELAY_BUDGET_SECONDS))
        return {"statusCode": 204}

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, with what Mangum leaves out of the scope: the raw path, decoded once, and headers as tuples."""
        raw_path = find_raw_path(scope["aws.event"])
        completed = {
            "path": unquote(raw_path),
            "raw_path": raw_path.encode(),
            "headers": [(name, value) for name, value in scope["headers"]],
        }
        await self.application({**scope, **completed}, receive, send)

    def close(self) -> None:
        self.loop.run_until_complete(self.application.stop())
        self.loop.close()


def is_ping(event: Any) -> bool:
    """Whether an invocation is no request: empty, from a schedule, or to keep the environment warm."""
    if not event:
        return True
    if isinstance(event, str):
        return WARM_UP.search(event) is not None
    if not isinstance(event, dict) or "requestContext" in event:
        return False
    source = event.get("source")
    words = [*event, source if isinstance(source, str) else ""]
    return source in SCHEDULERS or event.get("detail-type") == "Scheduled Event" or any(map(WARM_UP.search, words))


def find_raw_path(event: dict[str, Any]) -> str:
    """The percent-encoded path of a request, without the stage's name, which HTTP APIs put before it."""
    path: str = event.get("rawPath") or event.get("path") or "/"
    stage = event["requestContext"].get("stage", "$default")
    if event.get("version") == "2.0" and f"{path}/".startswith(f"/{stage}/"):
        path = path.removeprefix(f"/{stage}") or "/"
    # A lone surrogate becomes bytes that are not UTF-8, which are refused as in any other path.
    return quote(path, errors="surrogatepass") if is_decoded(event) else path


def is_decoded(event: dict[str, Any]) -> bool:
    """Whether the path was decoded: HTTP APIs do so; REST APIs, function URLs and load balancers do not."""
    is_function_url = ".lambda-url." in (event["requestContext"].get("domainName") or "")
    return event.get("version") in {"1.0", "2.0"} and not is_function_url


environments: list[Environment] = []


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The response to an invocation. Raises ConfigurationError when the service can't start; the next one retries."""
    if not environments:
        environments.append(Environment(Settings.load(os.environ)))
    return environments[0].handle(event, context)
