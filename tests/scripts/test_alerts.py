"""The alerts, evaluated by Prometheus's own promtool."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.alert_cases import CASES, Series

ROOT = Path(__file__).parents[2]
RULE = ROOT / "k8s-common/components/monitoring/prometheusrule.yaml"
RUNBOOKS = ROOT / "docs/runbooks.md"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULE.read_text())["spec"]["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def trial(name: str, series: Series, at: str, *, fires: bool, labels: str = "") -> dict[str, Any]:
    """A promtool test: the alert fires at that time, with these labels, or it does not."""
    return {
        "interval": "1m",
        "input_series": [{"series": series_name, "values": values} for series_name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"{labels}}}) or vector(0)',
                "eval_time": at,
                "exp_samples": [{"labels": "{}", "value": float(fires)}],
            }
        ],
    }


def rules_behind(name: str) -> list[dict[str, Any]]:
    """The alert and what is recorded; the objectives' own records only for their own alerts."""
    own = next(group for group in GROUPS if any(rule.get("alert") == name for rule in group["rules"]))
    groups = [group for group in GROUPS if group is own or group["name"] == "user-service.recorded"]
    return [
        {**group, "rules": [rule for rule in group["rules"] if rule.get("alert", name) == name]} for group in groups
    ]


def run_trials(folder: Path, name: str, trials: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    # YAML 1.2 holds JSON, and promtool reads YAML.
    (folder / "rules.json").write_text(json.dumps({"groups": rules_behind(name)}))
    test = {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": trials}
    (folder / "tests.json").write_text(json.dumps(test))
    return subprocess.run(
        ["promtool", "test", "rules", folder / "tests.json"], capture_output=True, text=True, check=False
    )


def load_trials(name: str) -> list[dict[str, Any]]:
    case = CASES[name]
    firing = [case.fires, *case.more_fires]
    quiet = [case.silent, case.boundary, *case.more_silent]
    return [
        *(trial(name, series, case.at, fires=True) for series in firing),
        *(trial(name, series, case.at, fires=False) for series in quiet),
        trial(name, {}, case.at, fires=case.no_data_fires),
    ]


def test_every_alert_is_tried_and_nothing_else_is() -> None:
    assert set(CASES) == set(ALERTS)


@needs_promtool
@pytest.mark.parametrize("name", sorted(CASES))
def test_an_alert_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    outcome = run_trials(tmp_path, name, load_trials(name))

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def elsewhere(series: Series) -> Series:
    return {name.replace("microservices", "elsewhere"): values for name, values in series.items()}


@needs_promtool
@pytest.mark.parametrize("name", sorted(set(CASES) - {"UserServiceUnwatched"}))
def test_an_alert_fires_for_the_namespace_that_is_in_trouble_whatever_its_name(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    both = {**case.silent, **elsewhere(case.fires)}
    trials = [
        trial(name, both, case.at, fires=True, labels=', namespace="elsewhere"'),
        trial(name, both, case.at, fires=False, labels=', namespace="microservices"'),
    ]

    outcome = run_trials(tmp_path, name, trials)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@needs_promtool
def test_a_service_that_is_watched_in_a_namespace_of_another_name_is_watched(tmp_path: Path) -> None:
    case = CASES["UserServiceUnwatched"]
    trials = [trial("UserServiceUnwatched", elsewhere(case.silent), case.at, fires=False)]

    outcome = run_trials(tmp_path, "UserServiceUnwatched", trials)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@needs_promtool
def test_a_trial_of_an_alert_can_fail(tmp_path: Path) -> None:
    case = CASES["UserServiceErrors"]

    outcome = run_trials(tmp_path, "UserServiceErrors", [trial("UserServiceErrors", case.silent, case.at, fires=True)])

    assert outcome.returncode == 1


@needs_promtool
def test_the_rules_are_well_formed(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(json.dumps({"groups": GROUPS}))

    checked = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.json"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    sections = {heading.lower() for heading in re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)}

    path, _, section = rule["annotations"]["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(rule["annotations"].values())
    assert ROOT / path == RUNBOOKS
    assert section == name.lower()
    assert section in sections


def test_no_runbook_is_left_over() -> None:
    sections = set(re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE))

    assert sections == set(ALERTS)
