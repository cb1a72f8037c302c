"""AWS Lambda: `user_service.entrypoints.aws_lambda.handler`, for API Gateway (HTTP and REST) and function URLs.

Mangum would enter and leave the lifespan at every invocation, and open pools for each. So the application is started
once for each execution environment, on a loop that lives as long, and Mangum runs requests on it.

Between invocations the environment is frozen. So nothing is relayed in the background: what an invocation has
committed is relayed before it ends, for a moment; the rest goes with the next one, a ping or `user-service relay`.
"""

import asyncio
import os
from typing import Any, Final

from mangum import Mangum

from user_service.app import Application, Receive, Scope, Send, create_app
from user_service.settings import Settings

RELAY_SECONDS: Final = 2.0
EMPTY_STATUSES: Final = frozenset({202, 204, 304})
# Answers that Mangum hands over as text; what is not in here goes out in base64.
TEXT_TYPES: Final = [
    "text/",
    "application/json",
    "application/problem+json",
    "application/cloudevents",
    "application/openmetrics-text",
]


class Environment:
    """One execution environment: a loop, and the application that was started on it."""

    def __init__(self, settings: Settings) -> None:
        self.loop = asyncio.new_event_loop()
        self.application: Application = create_app(settings)
        self.loop.run_until_complete(self.application.start(relay=False))
        # Mangum takes the current loop, both here and for each request.
        asyncio.set_event_loop(self.loop)
        self.adapter = Mangum(self.serve, lifespan="off", text_mime_types=TEXT_TYPES)

    def answer(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        asyncio.set_event_loop(self.loop)
        answer: dict[str, Any] = self.adapter(event, context)
        if answer["statusCode"] in EMPTY_STATUSES:
            # Mangum names a type for every answer.
            answer.get("headers", {}).pop("content-type", None)
        self.loop.run_until_complete(self.application.resources.relay_committed(seconds=RELAY_SECONDS))
        return answer

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """With what servers give and Mangum does not: the raw path, and headers as tuples."""
        event = scope["aws.event"]
        mended = {
            "path": path_below_stage(scope),
            "raw_path": (event.get("rawPath") or event["path"]).encode(),
            "headers": [(name, value) for name, value in scope["headers"]],
        }
        await self.application({**scope, **mended}, receive, send)

    def close(self) -> None:
        self.loop.run_until_complete(self.application.stop())
        self.loop.close()


def path_below_stage(scope: Scope) -> str:
    """The path without the name of the stage, which API Gateway's HTTP APIs put in front of it."""
    path: str = scope["path"]
    event = scope["aws.event"]
    stage = event["requestContext"].get("stage", "$default")
    if event.get("version") != "2.0" or stage == "$default":
        return path
    return path.removeprefix(f"/{stage}") or "/" if f"{path}/".startswith(f"/{stage}/") else path


environments: list[Environment] = []


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers one invocation. Raises ConfigurationError where the service can't start; the next one tries again."""
    if not environments:
        environments.append(Environment(Settings.load(os.environ)))
    return environments[0].answer(event, context)
