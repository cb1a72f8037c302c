"""AWS Lambda: `user_service.entrypoints.aws_lambda.handler`, for API Gateway (HTTP and REST) and function URLs.

Mangum would enter and leave the lifespan in every invocation, and open the pools each time. The application is started
once per execution environment instead, on an event loop that lives as long, and Mangum runs requests on that loop.

Between invocations the environment is frozen, so nothing is relayed in the background. An invocation relays the events
that it has committed before it ends, for `RELAY_BUDGET_SECONDS` at most; the next one, a ping or `user-service relay`
relays the rest.
"""

import asyncio
import os
from typing import Any, Final

from mangum import Mangum

from user_service.app import Application, Receive, Scope, Send, create_app
from user_service.settings import Settings

RELAY_BUDGET_SECONDS: Final = 2.0
STATUSES_WITHOUT_BODY: Final = frozenset({202, 204, 304})
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
        self.loop.run_until_complete(self.application.start(relay=False))
        # Mangum uses the current loop, here and in each request.
        asyncio.set_event_loop(self.loop)
        self.adapter = Mangum(self.serve, lifespan="off", text_mime_types=TEXT_TYPES)

    def handle(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        asyncio.set_event_loop(self.loop)
        response: dict[str, Any] = self.adapter(event, context)
        if response["statusCode"] in STATUSES_WITHOUT_BODY:
            # Mangum adds a content type to every response.
            response.get("headers", {}).pop("content-type", None)
        self.loop.run_until_complete(self.application.resources.relay_committed(seconds=RELAY_BUDGET_SECONDS))
        return response

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, with what Mangum leaves out of the scope: the raw path, and headers as tuples."""
        event = scope["aws.event"]
        completed = {
            "path": strip_stage(scope),
            "raw_path": (event.get("rawPath") or event["path"]).encode(),
            "headers": [(name, value) for name, value in scope["headers"]],
        }
        await self.application({**scope, **completed}, receive, send)

    def close(self) -> None:
        self.loop.run_until_complete(self.application.stop())
        self.loop.close()


def strip_stage(scope: Scope) -> str:
    """The path without the stage's name, which HTTP APIs of API Gateway put before it."""
    path: str = scope["path"]
    event = scope["aws.event"]
    stage = event["requestContext"].get("stage", "$default")
    if event.get("version") != "2.0" or stage == "$default":
        return path
    return path.removeprefix(f"/{stage}") or "/" if f"{path}/".startswith(f"/{stage}/") else path


environments: list[Environment] = []


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The response to an invocation. Raises ConfigurationError when the service can't start; the next one retries."""
    if not environments:
        environments.append(Environment(Settings.load(os.environ)))
    return environments[0].handle(event, context)
