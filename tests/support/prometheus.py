"""A real Prometheus that scrapes a service, and an exporter that stands for the cluster around it."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from support.http_server import serving_http
from support.ports import free_port
from support.waiting import PATIENCE_SECONDS

RULE = Path(__file__).parents[2] / "k8s-common/components/monitoring/prometheusrule.yaml"
POD = "user-service-00007-deployment-7c9-x2x"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
)

# Under the names and labels of cAdvisor, kube-state-metrics and queue-proxy.
CLUSTER = f"""\
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{{namespace="microservices",pod="{POD}",container="user-service"}} %(cpu)s
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{{namespace="microservices",pod="{POD}",container="user-service"}} 1.9e+08
# TYPE kube_pod_container_resource_limits gauge
kube_pod_container_resource_limits{{namespace="microservices",pod="{POD}",container="user-service",resource="cpu"}} 1
kube_pod_container_resource_limits{{namespace="microservices",pod="{POD}",container="user-service",resource="memory"}} 1.073741824e+09
# TYPE kube_pod_container_status_restarts_total counter
kube_pod_container_status_restarts_total{{namespace="microservices",pod="{POD}",container="user-service"}} 0
# TYPE kube_deployment_spec_replicas gauge
kube_deployment_spec_replicas{{namespace="microservices",deployment="user-service-00007-deployment"}} 1
# TYPE kn_serving_invocation_duration_seconds histogram
kn_serving_invocation_duration_seconds_bucket{{namespace="microservices",pod="{POD}",le="0.005"}} %(quick)s
kn_serving_invocation_duration_seconds_bucket{{namespace="microservices",pod="{POD}",le="0.05"}} %(all)s
kn_serving_invocation_duration_seconds_bucket{{namespace="microservices",pod="{POD}",le="+Inf"}} %(all)s
kn_serving_invocation_duration_seconds_sum{{namespace="microservices",pod="{POD}"}} %(sum)s
kn_serving_invocation_duration_seconds_count{{namespace="microservices",pod="{POD}"}} %(all)s
# TYPE kn_serving_queue_depth gauge
kn_serving_queue_depth{{namespace="microservices",pod="{POD}"}} 2
"""  # noqa: E501 - a sample is a line


class ClusterExporter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        now = time.time()
        asked = int(now * 40)
        values = {"cpu": now * 0.31, "quick": asked * 9 // 10, "all": asked, "sum": asked * 0.004}
        body = (CLUSTER % values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str | float) -> Any:
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=PATIENCE_SECONDS).json()
        assert response["status"] == "success", response
        return response["data"]

    def values(self, query: str) -> list[float]:
        return [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]


def configuration(service_url: str, exporter: str, folder: Path) -> dict[str, Any]:
    """As the operator would write it for the PodMonitor, but every half second."""
    rules = yaml.safe_load(RULE.read_text())["spec"]["groups"]
    (folder / "rules.json").write_text(json.dumps({"groups": [{**group, "interval": "1s"} for group in rules]}))
    labels = {"namespace": "microservices", "pod": POD, "container": "user-service"}
    return {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": ["rules.json"],
        "scrape_configs": [
            {
                "job_name": "microservices/user-service",
                "static_configs": [{"targets": [urlsplit(service_url).netloc], "labels": labels}],
            },
            {"job_name": "cluster", "honor_labels": True, "static_configs": [{"targets": [urlsplit(exporter).netloc]}]},
        ],
    }


@contextmanager
def prometheus(folder: Path, service_url: str) -> Iterator[Prometheus]:
    """A Prometheus that has begun to scrape the service and the exporter."""
    with serving_http(ThreadingHTTPServer(("127.0.0.1", 0), ClusterExporter)) as exporter:
        # YAML 1.2 holds JSON.
        (folder / "prometheus.json").write_text(json.dumps(configuration(service_url, exporter, folder)))
        address = f"127.0.0.1:{free_port()}"
        with (folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.json'}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    f"--web.listen-address={address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            server = Prometheus(f"http://{address}")
            wait_for_scrapes(server, process, folder / "prometheus.log")
            yield server
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def wait_for_scrapes(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if server.values("sum(up)") == [2.0]:
                return
        except (httpx.TransportError, json.JSONDecodeError):
            assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
