"""Writes the OpenAPI document of the whole service, or with `asyncapi` the AsyncAPI document; needs no database."""

import json
import sys
from typing import Any

from user_service.web.api import OPEN_ROUTERS, ROUTERS
from user_service.web.asyncapi_document import make_asyncapi_document
from user_service.web.openapi_document import make_document


def make_openapi_document() -> dict[str, Any]:
    return make_document([route for router in (*ROUTERS["all"], *OPEN_ROUTERS) for route in router.routes])


document = make_asyncapi_document(is_receiving=True) if sys.argv[1:] == ["asyncapi"] else make_openapi_document()
json.dump(document, sys.stdout, indent=2)
