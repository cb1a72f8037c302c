"""The canary script against a simulated kubectl and Prometheus; its queries with promtool. No cluster was at hand."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import canary
import custom_resources
import manifests
import pytest
import yaml
from manifests import is_knative_service, render_with

STABLE, CANDIDATE, NEWER = (f"user-service-{number:05}" for number in (7, 8, 9))
KUBECTL = f"""#!{sys.executable}
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["CLUSTER"])
patches, refused, later = (folder / name for name in ("patches", "refused", "later.json"))
with (folder / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "patch" in sys.argv:
    patch = sys.argv[sys.argv.index("--patch") + 1]
    if refused.exists() and refused.read_text() in patch:
        sys.exit("admission denied")
    with patches.open("a") as file:
        file.write(patch + "\\n")
else:
    print((later if later.exists() and patches.exists() else folder / "service.json").read_text())
"""


class Prometheus(ThreadingHTTPServer):
    """Answers queries by what they count, of the revision that they name."""

    answers: dict[str, float]
    revision = CANDIDATE
    is_broken = False

    def count(self, query: str) -> float:
        assert f'serving_knative_dev_revision="{self.revision}"' in query
        kind = "slow" if "duration" in query else "errors" if 'status=~"5.."' in query else "total"
        return self.answers[kind]


class Handler(BaseHTTPRequestHandler):
    server: Prometheus

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)["query"][0]
        value = [{"metric": {}, "value": [0, str(self.server.count(query))]}]
        body = json.dumps({"status": "success", "data": {"result": value}}).encode()
        self.send_response(503 if self.server.is_broken else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    server = Prometheus(("127.0.0.1", 0), Handler)
    server.answers = {"total": 1000, "errors": 0, "slow": 3}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(stat.S_IRWXU)
    set_status(tmp_path)
    return tmp_path


def set_status(cluster: Path, name: str = "service.json", **status: Any) -> None:
    """What kubectl reads; under the name `later.json`: what it reads once the traffic was changed."""
    traffic = [{"revisionName": STABLE, "percent": 100}]
    whole = {"traffic": traffic, "latestCreatedRevisionName": CANDIDATE, "latestReadyRevisionName": CANDIDATE}
    (cluster / name).write_text(json.dumps({"status": whole | status}))


def start(cluster: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"CLUSTER": str(cluster), "PATH": f"{cluster}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, canary.__file__, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(cluster: Path, prometheus: Prometheus, *options: str) -> tuple[int, str]:
    address = f"http://127.0.0.1:{prometheus.server_port}"
    process = start(cluster, "run", "--prometheus", address, "--seconds", "0.05", "--patience", "0.2", *options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def shares(cluster: Path) -> list[dict[str, int]]:
    """The percentages of each patch, by revision."""
    lines = (cluster / "patches").read_text().splitlines()
    return [
        {target.get("revisionName", "latest"): target["percent"] for target in json.loads(line)["spec"]["traffic"]}
        for line in lines
    ]


BACK = {STABLE: 100, "latest": 0}


def test_a_healthy_revision_gets_all_traffic_in_steps(cluster: Path, prometheus: Prometheus) -> None:
    status, text = run(cluster, prometheus)

    assert status == 0, text
    steps = [{STABLE: 100 - percent, CANDIDATE: percent, "latest": 0} for percent in (5, 25, 50, 100)]
    assert shares(cluster) == [*steps, {"latest": 100}]


@pytest.mark.parametrize("ready", [CANDIDATE, NEWER])
@pytest.mark.parametrize("steps", ["5,100", "5"])
def test_a_revision_that_appears_during_a_run_gets_no_traffic(
    cluster: Path, prometheus: Prometheus, ready: str, steps: str
) -> None:
    set_status(cluster, "later.json", latestCreatedRevisionName=NEWER, latestReadyRevisionName=ready)
    status, text = run(cluster, prometheus, "--steps", steps)

    assert status == 0, text
    assert f"{NEWER} appeared during the run" in text
    assert shares(cluster)[-1] == {STABLE: 0, CANDIDATE: 100, "latest": 0}


def test_a_refused_release_takes_the_traffic_back(cluster: Path, prometheus: Prometheus) -> None:
    (cluster / "refused").write_text('"latestRevision": true, "percent": 100')
    status, text = run(cluster, prometheus)

    assert (status, "FAIL admission denied; back to" in text) == (1, True), text
    assert shares(cluster)[-1] == BACK


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"errors": 20}, "2.00 % of 1000 requests are 5xx; 1.44 % are allowed"),
        ({"slow": 200}, "20.00 % of 1000 requests are over 250 ms; 14.40 % are allowed"),
        ({"total": 20}, "had 20 requests"),
    ],
)
def test_a_revision_that_breaks_an_objective_loses_its_traffic(
    cluster: Path, prometheus: Prometheus, answers: dict[str, float], reason: str
) -> None:
    prometheus.answers |= answers
    status, text = run(cluster, prometheus)

    assert (status, reason in text) == (1, True), text
    assert shares(cluster) == [{STABLE: 95, CANDIDATE: 5, "latest": 0}, BACK]


def test_errors_within_the_budget_are_no_reason(cluster: Path, prometheus: Prometheus) -> None:
    prometheus.answers["errors"] = 14

    assert run(cluster, prometheus)[0] == 0


def test_without_prometheus_nothing_is_risked(cluster: Path, prometheus: Prometheus) -> None:
    prometheus.is_broken = True
    status, text = run(cluster, prometheus)

    assert (status, "Prometheus did not answer 3 times" in text) == (1, True), text
    assert shares(cluster)[-1] == BACK


@pytest.mark.parametrize(
    ("status_of_service", "reason"),
    [
        ({"latestReadyRevisionName": STABLE}, f"{CANDIDATE} did not become ready"),
        ({"latestCreatedRevisionName": STABLE, "latestReadyRevisionName": STABLE}, "there is no newer revision"),
    ],
)
def test_a_revision_that_is_not_ready_gets_nothing(
    cluster: Path, prometheus: Prometheus, status_of_service: dict[str, str], reason: str
) -> None:
    set_status(cluster, **status_of_service)
    status, text = run(cluster, prometheus)

    assert (status, reason in text) == (1, True), text
    assert shares(cluster) == [BACK]


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "ended by a signal"), (signal.SIGINT, "interrupted")])
def test_a_signal_takes_the_traffic_back(
    cluster: Path, prometheus: Prometheus, number: signal.Signals, reason: str
) -> None:
    address = f"http://127.0.0.1:{prometheus.server_port}"
    process = start(cluster, "run", "--prometheus", address, "--seconds", "60")
    deadline = time.monotonic() + 60
    while not (cluster / "patches").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)

    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"FAIL {reason}; back to {STABLE}" in out, out + err
    assert shares(cluster)[-1] == BACK


@pytest.mark.parametrize("action", ["pin", "back"])
def test_pin_and_back_leave_all_traffic_with_the_serving_revision(cluster: Path, action: str) -> None:
    process = start(cluster, action)
    process.communicate(timeout=60)

    assert process.returncode == 0
    assert shares(cluster) == [BACK]


def test_the_service_and_its_namespace_may_have_other_names(cluster: Path) -> None:
    start(cluster, "pin", "--service", "accounts", "--namespace", "elsewhere").communicate(timeout=60)

    calls = [json.loads(line) for line in (cluster / "calls").read_text().splitlines()]
    assert [call[:5] for call in calls] == [
        ["--namespace", "elsewhere", verb, "services.serving.knative.dev", "accounts"] for verb in ("get", "patch")
    ]


def test_back_leads_to_the_stable_revision_wherever_the_traffic_is(cluster: Path) -> None:
    tagged = {"tag": "stable", "revisionName": STABLE, "percent": 0}
    set_status(cluster, traffic=[tagged, {"tag": "candidate", "revisionName": CANDIDATE, "percent": 100}])
    start(cluster, "back").communicate(timeout=60)

    assert shares(cluster) == [BACK]


def watched_to_the_end() -> list[dict[str, Any]]:
    """The traffic after a run during which a newer revision appeared."""
    return [*canary.split(STABLE, CANDIDATE, 100)[:2], {"tag": "latest", "revisionName": NEWER, "percent": 0}]


def test_pin_keeps_the_traffic_with_the_revision_that_has_it(cluster: Path) -> None:
    set_status(cluster, traffic=watched_to_the_end())
    start(cluster, "pin").communicate(timeout=60)

    assert shares(cluster) == [{CANDIDATE: 100, "latest": 0}]


def test_the_next_run_starts_from_the_revision_that_has_the_traffic(cluster: Path, prometheus: Prometheus) -> None:
    set_status(cluster, traffic=watched_to_the_end(), latestCreatedRevisionName=NEWER, latestReadyRevisionName=NEWER)
    prometheus.revision = NEWER
    status, text = run(cluster, prometheus, "--steps", "5")

    assert status == 0, text
    assert shares(cluster) == [{CANDIDATE: 95, NEWER: 5, "latest": 0}, {"latest": 100}]


def test_a_service_without_traffic_is_named(cluster: Path) -> None:
    set_status(cluster, traffic=[])
    process = start(cluster, "pin")

    assert "deploy it first" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_the_queries_ask_for_metrics_of_the_service() -> None:
    documented = (manifests.ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for query in canary.queries("microservices", CANDIDATE, 300).values():
        for metric in ("http_requests_total", "user_shed_total", "http_request_duration_seconds"):
            assert metric not in query or f"`{metric}`" in documented


OWN = f'namespace="microservices", job="microservices/user-service", serving_knative_dev_revision="{CANDIDATE}"'
CREATED = f'{OWN}, route="/api/v1/users"'
SHED = f"user_shed_total{{{OWN}}}"
SLOW = f'http_request_duration_seconds_bucket{{{CREATED}, le="+Inf"}}'


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not on PATH (Debian package prometheus)")
@pytest.mark.parametrize(
    ("series", "counts"),
    [
        ([], {"total": 0, "errors": 0, "slow": 0}),
        ([SHED], {"total": 300, "errors": 300, "slow": 0}),
        ([f'http_requests_total{{{CREATED}, status="200"}}'], {"total": 300, "errors": 0, "slow": 0}),
        ([f'http_requests_total{{{CREATED}, status="503"}}', SHED], {"total": 600, "errors": 600, "slow": 0}),
        ([SLOW], {"total": 0, "errors": 0, "slow": 300}),
        ([SLOW, SLOW.replace("+Inf", "0.25")], {"total": 0, "errors": 0, "slow": 0}),
    ],
)
def test_a_missing_series_counts_as_zero(tmp_path: Path, series: list[str], counts: dict[str, int]) -> None:
    queries = canary.queries("microservices", CANDIDATE, 300)
    trial = {
        "interval": "1m",
        "input_series": [{"series": name, "values": "0+60x10"} for name in series],
        "promql_expr_test": [
            {"expr": queries[name], "eval_time": "10m", "exp_samples": [{"labels": "{}", "value": count}]}
            for name, count in counts.items()
        ],
    }
    (tmp_path / "tests.json").write_text(json.dumps({"evaluation_interval": "1m", "tests": [trial]}))

    outcome = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.json"], capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_the_label_of_the_revision_comes_with_every_way_to_scrape() -> None:
    [query_label] = set(re.findall(r"serving_\w+", str(canary.queries("microservices", CANDIDATE, 300))))
    observability = (manifests.ROOT / "docs/observability.md").read_text(encoding="utf-8")
    [scrape] = re.findall(r"```yaml\n(scrape_configs:.*?)```", observability, re.DOTALL)
    [job] = yaml.safe_load(scrape)["scrape_configs"]
    monitor = yaml.safe_load((manifests.ROOT / "knative/components/monitoring/podmonitor.yaml").read_text())

    sources = {rule["target_label"]: rule["source_labels"] for rule in job["relabel_configs"] if "target_label" in rule}
    assert sources.get(query_label) == [f"__meta_kubernetes_pod_label_{query_label}"]
    assert query_label in {re.sub(r"\W", "_", label) for label in monitor["spec"]["podTargetLabels"]}
    assert f"`{query_label}`" in (manifests.ROOT / "docs/canary.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH")
def test_the_component_is_what_pin_sets(tmp_path: Path) -> None:
    documents = render_with("knative/overlays/production", ["knative/components/canary"], tmp_path)
    [service] = [d for d in documents if is_knative_service(d) and d["metadata"]["name"] == "user-service"]

    assert service["spec"]["traffic"] == canary.pinned("user-service-00001")
    if folder := custom_resources.definitions_folder():
        assert custom_resources.problems(documents, folder)[1] == []


def test_argo_cd_and_flux_ignore_what_the_script_moves() -> None:
    page = (manifests.ROOT / "docs/canary.md").read_text(encoding="utf-8")
    argo_cd, flux = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    [own], [other] = argo_cd, flux["ignore"]
    service = yaml.safe_load((manifests.ROOT / "knative/base/service.yaml").read_text(encoding="utf-8"))
    target = {
        "group": service["apiVersion"].partition("/")[0],
        "kind": service["kind"],
        "name": service["metadata"]["name"],
    }

    assert own == {**target, "jsonPointers": ["/spec/traffic"]}
    assert other == {"paths": ["/spec/traffic"], "target": target}
    application = yaml.safe_load((manifests.ROOT / "examples/gitops/argo-cd/application-kustomize.yaml").read_text())
    assert "RespectIgnoreDifferences=true" in application["spec"]["syncPolicy"]["syncOptions"]
