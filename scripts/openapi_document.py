"""Writes the OpenAPI document of the whole service to standard output; needs no database."""

import json
import sys

from user_service.web.api import OPEN_ROUTERS, ROUTERS
from user_service.web.openapi_document import make_document

routes = [route for router in (*ROUTERS["all"], *OPEN_ROUTERS) for route in router.routes]
json.dump(make_document(routes), sys.stdout, indent=2)
