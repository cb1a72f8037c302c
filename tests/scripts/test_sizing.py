"""The sizing page: its numbers are those of measurements.md, and its table follows from them."""

import math
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "sizing.md").read_text(encoding="utf-8")
MEASURED = (DOCS / "measurements.md").read_text(encoding="utf-8") + (DOCS / "performance.md").read_text(
    encoding="utf-8"
)
ROWS = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| (\d+) \| (\d+) \| ([\d.]+) GB \| ([\d,]+) GB \|$", PAGE, re.MULTILINE)
MIX = {"read by id from the pod's cache": 0.8, "read by id from PostgreSQL": 0.1, "find by e-mail": 0.05}
MIX |= {"change of one user": 0.03, "page of 50 users": 0.02}
SECONDS_OF_A_YEAR = 365 * 86400


def number(text: str) -> float:
    return float(text.replace(",", ""))


def costs() -> dict[str, float]:
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) us \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    for name, microseconds, rate in rows:
        assert number(rate) == pytest.approx(1e6 / number(microseconds), rel=0.01), name
    return {name: number(microseconds) for name, microseconds, _ in rows}


def test_the_costs_are_the_measured_ones() -> None:
    for microseconds in costs().values():
        assert re.search(rf"\b{microseconds:,.0f}(?:-\d+)? us", MEASURED), microseconds
    for fact in ("2,010 bytes", "adds 470 bytes", "70 MiB", "121 MiB", "140 MiB", "15,584 to 20,679"):
        assert fact in MEASURED


def test_the_mix_takes_the_time_that_the_page_says() -> None:
    mean = sum(share * costs()[name] for name, share in MIX.items())

    assert sum(MIX.values()) == pytest.approx(1)
    assert f"{mean:.0f} us on average" in " ".join(PAGE.split())
    assert 0.5e6 / mean == pytest.approx(7400, rel=0.01)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_line_of_the_table_follows_from_the_costs(row: tuple[str, ...]) -> None:
    users, requests, pods, connections, disk, changes = map(number, row)

    assert len(ROWS) == 5
    assert pods == max(3, math.ceil(requests / 7400) + 1)
    assert connections == (pods + 3) * 20 + 20
    assert disk == users * 2.0e3 / 1e9
    assert changes == round(requests * 0.03 * SECONDS_OF_A_YEAR * 0.5e3 / 1e9)
