"""Results as a table for the terminal, JSON for machines and Markdown for the documentation."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare import Comparison
from benchmarks.goals import GOALS, Goal, Judged

RESULTS = Path(__file__).with_name("results")
HEADINGS = ("measured", "baseline", "service", "", "ratio", "spread", "limit", "aim", "")
LIBRARIES = ("fastapi", "starlette", "uvicorn", "asyncpg", "redis", "sqlalchemy", "cryptography")


@dataclass(frozen=True)
class Row:
    """One measurement; `absolute` is judged instead of the ratio where a goal is not a ratio."""

    key: str
    label: str
    unit: str
    comparison: Comparison
    absolute: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def goal(self) -> Goal | None:
        return GOALS.get(self.key)

    @property
    def judged(self) -> float:
        return self.comparison.ratio if self.absolute is None else self.absolute

    @property
    def verdict(self) -> str:
        """Whether the aim or at least the limit is reached; empty where there is no goal."""
        if self.goal is None:
            return ""
        if self.goal.meets(self.judged, self.goal.aim):
            return "aim met"
        return "met" if self.goal.meets(self.judged, self.goal.limit) else "MISSED"

    @property
    def regressed(self) -> bool:
        return self.goal is not None and not self.goal.meets(self.judged, self.goal.bound)

    def cells(self) -> tuple[str, ...]:
        ratios = self.comparison.ratios
        return (
            self.label if self.absolute is None else f"{self.label}: {self.absolute:.1f} {self.unit}",
            number(median(self.comparison.baseline)),
            number(median(self.comparison.subject)),
            self.unit,
            f"{self.comparison.ratio:.2f}",
            f"{min(ratios):.2f}-{max(ratios):.2f}" if len(ratios) > 1 else "",
            mark(self.goal, self.goal.limit) if self.goal else "",
            mark(self.goal, self.goal.aim) if self.goal else "",
            self.verdict,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "label": self.label,
            "unit": self.unit,
            "baseline": list(self.comparison.baseline),
            "subject": list(self.comparison.subject),
            "ratio": self.comparison.ratio,
            "judged": self.judged,
            "verdict": self.verdict,
            **self.details,
        }


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def mark(goal: Goal, value: float) -> str:
    sign = "<=" if goal.judged is Judged.AT_MOST else ">="
    return f"{sign} {value:g}" + ("" if goal.unit == "x" else f" {goal.unit}")


def table(rows: Iterable[Row]) -> str:
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(rows: Iterable[Row], machine: Mapping[str, str]) -> str:
    heading = ("measured", "baseline", "service", "unit", "ratio", "spread", "limit", "aim", "verdict")
    lines = [heading, ("---",) * len(heading), *(row.cells() for row in rows)]
    facts = "".join(f"- {name}: {value}\n" for name, value in machine.items())
    return facts + "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine_facts() -> dict[str, str]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def write(rows: Sequence[Row], *, quick: bool) -> Path:
    """Keeps the run as JSON, and as Markdown beside it; returns the JSON's path."""
    machine = machine_facts()
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    kept = {"machine": machine, "quick": quick, "rows": [row.as_json() for row in rows]}
    file.write_text(json.dumps(kept, indent=2) + "\n")
    file.with_suffix(".md").write_text(markdown(rows, machine))
    return file
