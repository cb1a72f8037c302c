"""Loads the API, which imports FastAPI, SQLAlchemy and pydantic, while the event loop serves the fast path."""

import gc
import sys
from typing import Any, Final

from user_service.bootstrap import Resources
from user_service.observability.logging import log
from user_service.web.bulkhead import Bulkhead
from user_service.web.fast_path import FastPath
from user_service.web.health import Health

# While a worker thread imports, the event loop must not wait long for the GIL.
IMPORTING_SWITCH_SECONDS: Final = 0.0005
# More objects than a batch of 1,000 makes and drops again.
GC_THRESHOLD_OBJECTS: Final = 50_000


def load_api(resources: Resources, fast_path: FastPath, health: Health, bulkhead: Bulkhead) -> Any:
    """The FastAPI application. Takes half a second: call it on a worker thread.

    A failure is logged, marks the service as broken, and is raised again.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(IMPORTING_SWITCH_SECONDS)
    # An import makes many objects and hardly any garbage.
    gc.disable()
    try:
        from user_service.web.api import create_api

        return create_api(resources, fast_path, health, bulkhead)
    except Exception:
        health.broken = True
        log.critical("the API can't be loaded: the installation is broken", exc_info=True)
        raise
    finally:
        sys.setswitchinterval(interval)
        # The objects made so far stay: the collector leaves them out from now on.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD_OBJECTS, 10, 10)
        gc.enable()
