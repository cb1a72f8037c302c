"""func.yaml: fields that kn func's specification 0.36.0 knows, and the same service as on the clusters."""

import re
from pathlib import Path
from typing import Any

import manifest_rules as rules
import manifests
import pytest
import yaml

ROOT = Path(__file__).parents[2]
# What the schema of specification 0.36.0 names at each place that is used; every other field is an error there.
KNOWN: dict[str, Any] = {
    "specVersion": str,
    "name": str,
    "runtime": str,
    "created": str,
    "namespace": str,
    "invoke": str,
    "build": {"builder": str},
    "run": {
        "envs": [{"name": str, "value": str}],
        "volumes": [{"secret": str, "emptyDir": {"sizeLimit": str}, "path": str}],
    },
    "deploy": {
        "serviceAccountName": str,
        "healthEndpoints": {"liveness": str, "readiness": str},
        "labels": [{"key": str, "value": str}],
        "options": {
            "scale": {"min": int, "max": int, "metric": str, "target": int, "utilization": int},
            "resources": {
                "requests": {"cpu": str, "memory": str},
                "limits": {"cpu": str, "memory": str, "concurrency": int},
            },
        },
        "subscriptions": [{"source": str, "filters": {"type": str}}],
    },
}


@pytest.fixture(scope="module")
def function() -> dict[str, Any]:
    # Times stay text, as kn func reads them.
    document = yaml.load((ROOT / "func.yaml").read_text(), Loader=yaml.BaseLoader)
    assert isinstance(document, dict)
    return document


def unknown(value: Any, known: Any, place: str = "func.yaml") -> list[str]:
    """Where a value has a field that is not known, or another kind of value."""
    if isinstance(known, dict) and isinstance(value, dict):
        strange = [f"{place}.{name}" for name in value if name not in known]
        return strange + [p for n in value if n in known for p in unknown(value[n], known[n], f"{place}.{n}")]
    if isinstance(known, list) and isinstance(value, list):
        return [problem for index, item in enumerate(value) for problem in unknown(item, known[0], f"{place}[{index}]")]
    fits = isinstance(value, str) and (known is str or (known is int and value.isdigit()))
    return [] if fits else [place]


def test_func_yaml_has_only_fields_that_kn_func_knows(function: dict[str, Any]) -> None:
    assert unknown(function, KNOWN) == []
    assert unknown(function | {"timeoutSeconds": "60"}, KNOWN) == ["func.yaml.timeoutSeconds"]
    assert (function["specVersion"], function["runtime"], function["invoke"]) == ("0.36.0", "python", "http")


def test_the_namespace_is_a_wish_and_no_record_of_a_deployment(function: dict[str, Any]) -> None:
    """kn func takes `deploy.namespace` for where a function runs, and removes that one when it deploys elsewhere."""
    assert function["namespace"] == "microservices"
    assert not {"namespace", "deployer", "image"} & set(function["deploy"])


@pytest.mark.skipif(not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH")
def test_the_function_is_the_service_of_the_clusters(function: dict[str, Any]) -> None:
    documents = manifests.render("knative/overlays/production")
    [service] = [d for d in documents if manifests.is_knative_service(d) and d["metadata"]["name"] == "user-service"]
    container = rules.service_containers(documents)["user-service"]
    resources = function["deploy"]["options"]["resources"]
    scale, scaling = function["deploy"]["options"]["scale"], service["spec"]["template"]["metadata"]["annotations"]

    assert {env["name"]: env["value"] for env in function["run"]["envs"]} == rules.settings(documents)
    assert function["deploy"]["healthEndpoints"] == {
        "liveness": container["livenessProbe"]["httpGet"]["path"],
        "readiness": container["readinessProbe"]["httpGet"]["path"],
    }
    for kind in ("requests", "limits"):
        wanted = {name: container["resources"][kind][name] for name in ("cpu", "memory")}
        assert {name: resources[kind][name] for name in wanted} == wanted
    assert int(resources["limits"]["concurrency"]) == service["spec"]["template"]["spec"]["containerConcurrency"]
    assert scale["max"] == scaling["autoscaling.knative.dev/max-scale"]
    assert scale["target"] == scaling["autoscaling.knative.dev/target"]
    wanted_types = [f["exact"]["type"] for f in manifests.named(documents, "Trigger")["spec"]["filters"][0]["any"]]
    assert [s["filters"]["type"] for s in function["deploy"]["subscriptions"]] == wanted_types


def test_the_page_applies_the_broker_and_the_policy_that_lets_requests_in(function: dict[str, Any]) -> None:
    page = (ROOT / "docs/function.md").read_text(encoding="utf-8")
    applied = re.findall(r"-f (knative/base/[\w.-]+)", page)
    documents = [document for name in applied for document in manifests.parse((ROOT / name).read_text("utf-8"))]

    [policy] = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    [rule] = policy["podSelector"]["matchExpressions"]
    assert (rule["key"], rule["operator"]) == ("serving.knative.dev/service", "In")
    assert function["name"] in rule["values"]
    broker = manifests.named(documents, "Broker")
    assert {subscription["source"] for subscription in function["deploy"]["subscriptions"]} == {
        broker["metadata"]["name"]
    }
    sink = broker["spec"]["delivery"]["deadLetterSink"]["ref"]
    assert manifests.named(documents, sink["kind"])["metadata"]["name"] == sink["name"]
    labels = {label["key"]: label["value"] for label in function["deploy"]["labels"]}
    subject = manifests.named(documents, "SinkBinding")["spec"]["subject"]
    assert subject["selector"]["matchLabels"].items() <= labels.items()
