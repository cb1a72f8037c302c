"""The first view of the admin page in Chromium: `python -m benchmarks.first_view [--rounds N]`. Needs Chromium.

Each round is a browser that has nothing cached, at a service that has answered the page before. Times are those of the
page's own clock, which starts with the navigation: until the field of the sign-in form can be typed into and was
painted, and from the form's submission until the rows of the list were painted. A visit begins when the processors are
idle, or after a while.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.people import create_users
from benchmarks.report import RESULTS
from benchmarks.servers import API_KEY, Server, open_bench, service

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.browser import Page, browsing

USERS = 1_000
BUSY_PERCENT = 15
PATIENCE_SECONDS = 5.0
# Notes when something is there: the next frame but one begins after it was painted.
WATCH = """
globalThis.noted = {};
const note = (name) => requestAnimationFrame(() => requestAnimationFrame(() => { noted[name] ??= performance.now(); }));
addEventListener("submit", () => { noted.submitted ??= performance.now(); }, true);
new MutationObserver(() => {
  if (document.activeElement?.id === "key") note("form");
  if (document.querySelectorAll("main tbody tr").length === 50) note("rows");
}).observe(document, { childList: true, subtree: true });
"""


def visit(page: Page, server: Server) -> dict[str, float]:
    """One visit: milliseconds, and the bytes that came over the network."""
    page.begin()
    wait_until_idle()
    page.send("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    page.open(f"http://127.0.0.1:{server.port}/admin")
    page.wait_for("noted.form")
    form_bytes = received(page)
    page.value(f"document.getElementById('key').value = {json.dumps(API_KEY)}")
    page.value("document.querySelector('main form').requestSubmit()")
    page.wait_for("noted.rows")
    noted: dict[str, Any] = page.value("noted")
    return {
        "form": noted["form"],
        "rows": noted["rows"] - noted["submitted"],
        "form_bytes": form_bytes,
        "all_bytes": received(page),
    }


def wait_until_idle() -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while psutil.cpu_percent(interval=0.15) > BUSY_PERCENT and time.monotonic() < deadline:
        pass


def received(page: Page) -> int:
    page.value("0")
    finished = (event["params"] for event in page.events if event["method"] == "Network.loadingFinished")
    return sum(int(parameters["encodedDataLength"]) for parameters in finished)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.first_view", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with (
        open_bench([str(Path(sys.executable).with_name("user-service"))]) as bench,
        service(bench) as server,
        # Chromium's processes may write for a moment after it has ended.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        browsing(Path(folder)) as page,
    ):
        create_users(server, USERS, series="list")
        visits = [visit(page, server) for _ in range(rounds + 1)]
    lines = ["| | the first visit | minimum | median | maximum |", "| --- | --- | --- | --- | --- |"]
    for name, label, unit in (
        ("form", "navigation to the form", "ms"),
        ("rows", "signing in to 50 users", "ms"),
        ("form_bytes", "received until the form", "KB"),
        ("all_bytes", "received until the list", "KB"),
    ):
        first, *others = [taken[name] / (1_000 if unit == "KB" else 1) for taken in visits]
        values = (first, min(others), median(others), max(others))
        lines.append(f"| {label} | " + " | ".join(f"{value:.0f} {unit}" for value in values) + " |")
    print("\n".join(lines))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "first-view.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
