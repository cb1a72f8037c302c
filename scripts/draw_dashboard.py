"""Draws the dashboard as docs/dashboard.png from a Prometheus: `python scripts/draw_dashboard.py URL [MINUTES]`.

Every panel's own queries, over the last minutes; needs the extra `drawing`.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import dashboard
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

TARGET: Final = Path(__file__).parents[1] / "docs/dashboard.png"
VALUES: Final = {"$namespace": "microservices", "$job": "(.+/)?user-service", "$__rate_interval": "15s"}
STEP_SECONDS: Final = 1
COLUMNS: Final = 3
LINES_NAMED: Final = 7


def main() -> None:
    url, minutes = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    until = time.time()
    rows = [(title, panel) for title, row in dashboard.ROWS.items() for panel in padded(row)]
    lines = len(rows) // COLUMNS
    figure, places = pyplot.subplots(lines, COLUMNS, figsize=(16, 2.7 * lines), layout="constrained")
    for (title, panel), axes in zip(rows, places.flat, strict=True):
        if panel is None:
            axes.axis("off")
            continue
        draw(axes, f"{title}: {panel.title}", panel, [url, until - minutes * 60, until])
    figure.savefig(TARGET, dpi=80)


def padded(row: list[dashboard.Panel]) -> list[dashboard.Panel | None]:
    """A row of panels, filled up to whole lines."""
    return [*row, *[None] * (-len(row) % COLUMNS)]


def draw(axes: Axes, title: str, panel: dashboard.Panel, window: list[Any]) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    named = 0
    for legend, query in panel.queries.items():
        for series in ask(query, *window):
            moments = [float(at) - window[2] for at, _ in series["values"]]
            values = [float(value) for _, value in series["values"]]
            label = named_after(legend, series["metric"]) if named < LINES_NAMED else None
            axes.plot(moments, values, linewidth=1.2, label=label)
            named += 1
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.1 or 1)
    axes.yaxis.set_major_formatter("{x:g}" if panel.unit != "percentunit" else matplotlib.ticker.PercentFormatter(1))
    axes.set_xlabel(f"seconds; {panel.unit}", fontsize=6)
    if named:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.6)


def ask(query: str, url: str, since: float, until: float) -> list[dict[str, Any]]:
    for variable, value in VALUES.items():
        query = query.replace(variable, value)
    asked = urlencode({"query": query, "start": since, "end": until, "step": STEP_SECONDS})
    with urlopen(f"{url}/api/v1/query_range?{asked}") as response:
        result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result


def named_after(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


if __name__ == "__main__":
    main()
