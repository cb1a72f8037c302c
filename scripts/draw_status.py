"""Draws the status page after a minute of load as docs/status.png: `python scripts/draw_status.py`.

Starts a service with an embedded PostgreSQL; needs Chromium.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from support.browser import browsing  # noqa: E402 - the path comes first
from support.load import put_load  # noqa: E402
from support.process import serving  # noqa: E402
from support.settings import API_KEY  # noqa: E402
from support.visitor import Visitor  # noqa: E402

TARGET: Final = ROOT / "docs/status.png"
SECONDS: Final = 60
PAUSES: Final = (0.2, 0.5, 0.1, 0.8)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder) as service, service.client() as client, browsing(folder) as page:
            until = time.monotonic() + SECONDS
            rounds = 0
            while time.monotonic() < until:
                put_load(client)
                time.sleep(PAUSES[rounds // 10 % len(PAUSES)])
                rounds += 1
            visitor = Visitor(page)
            visitor.set_width(1200, 900)
            visitor.open(f"{service.url}/status")
            visitor.enter("API key", API_KEY)
            visitor.press("Enter")
            visitor.sees("last position")
            # Not the name of this machine.
            page.value("document.getElementById('instance').textContent = 'user-service-0, serving all'")
            page.screenshot(TARGET)


if __name__ == "__main__":
    main()
