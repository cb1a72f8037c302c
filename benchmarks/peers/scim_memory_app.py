"""The provider of scim2-server over its storage in memory: PROGRAM PORT FILE, where FILE has users as JSON."""

import asyncio
import json
import sys
from pathlib import Path

import uvicorn
from scim2_server.applications.asgi import ASGIApplication
from scim2_server.memory import AsyncInMemoryStorage
from scim2_server.utils import load_default_provider

PORT, TEXT = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()


async def fill(application: ASGIApplication) -> None:
    resource_type = application.service.get_resource_type("User")
    model = application.service.get_model(resource_type)
    for document in json.loads(TEXT):
        await application.storage.create(resource_type, model.model_validate(document))


provider = load_default_provider()
application = ASGIApplication(AsyncInMemoryStorage(), provider)
asyncio.run(fill(application))
uvicorn.run(
    application,
    host="127.0.0.1",
    port=PORT,
    http="httptools",
    loop="uvloop",
    access_log=False,
    log_level="warning",
)
