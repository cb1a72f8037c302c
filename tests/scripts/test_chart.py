"""The Helm chart: the same objects as the overlays, values that are refused, and what the hooks need."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import charts
import manifests
import pytest
import sync_chart
import yaml
from charts import CHART, VALUE_FILES, render_chart, template
from manifests import ROOT, Document, is_knative_service, named, pod_template, render, render_with

from support.live_server import live
from support.settings import API_KEY
from user_service.settings import PARSERS, Settings

TOOLS = Path(os.environ.get("TOOLS_DIR", Path.home() / ".cache/user-service/tools")) / "bin"
pytestmark = pytest.mark.skipif(
    not manifests.renderers() or not shutil.which("helm", path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}"),
    reason="helm, or a renderer of kustomize, is not installed; scripts/install-tools brings them",
)


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{TOOLS}")


def values(name: str) -> Path:
    return CHART / "ci" / f"{name}.yaml"


@pytest.mark.parametrize(("name", "overlay"), charts.MATCHING_OVERLAYS.items())
def test_chart_and_overlay_describe_the_same_objects(name: str, overlay: str) -> None:
    assert charts.compare(values(name), render(overlay)) == []


@pytest.mark.parametrize(
    ("name", "overlay", "component"),
    [
        ("deployment-vpa-in-place", "k8s-fallback/overlays/production", "k8s-fallback/components/vpa-in-place"),
        ("knative-kafka", "knative/overlays/production", "knative/components/kafka-broker"),
        ("knative-rabbitmq", "knative/overlays/production", "knative/components/rabbitmq-broker"),
        ("knative-canary", "knative/overlays/production", "knative/components/canary"),
        ("knative-event-policy", "knative/overlays/production", "knative/components/event-policy"),
    ],
)
def test_chart_and_component_describe_the_same_objects(name: str, overlay: str, component: str, tmp_path: Path) -> None:
    components = [component, "k8s-common/components/linter-waivers"]
    assert charts.compare(values(name), render_with(overlay, components, tmp_path)) == []


def edited_overlay(tmp_path: Path, file: str, old: str, new: str) -> list[Document]:
    for folder in ("k8s-common", "k8s-fallback"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    return render(tmp_path / "k8s-fallback/overlays/production")


def test_a_setting_that_the_chart_lacks_is_named_with_the_remedy(tmp_path: Path) -> None:
    config = "k8s-common/base/configmap.yaml"
    overlay = edited_overlay(tmp_path, config, "  CACHE_TTL:", '  NEW_SETTING: "1"\n  CACHE_TTL:')

    [problem] = charts.compare(values("deployment-production"), overlay)
    assert problem.startswith("ConfigMap/user-service-config: data.NEW_SETTING: only in the overlay")
    assert problem.endswith("add it to `settings` in charts/user-service/values.yaml")


def test_any_other_difference_is_found(tmp_path: Path) -> None:
    file = "k8s-fallback/base/deployment.yaml"
    overlay = edited_overlay(tmp_path, file, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")
    overlay = [d for d in overlay if d["kind"] != "PodDisruptionBudget"]

    problems = charts.compare(values("deployment-production"), overlay)
    assert [problem.partition(":")[0] for problem in problems] == [
        "PodDisruptionBudget/user-service-pdb is in the chart, and not in the overlay",
        "Deployment/user-service-deployment",
    ]
    assert "securityContext.readOnlyRootFilesystem: False in the overlay, True in the chart" in problems[1]


def test_what_the_chart_copies_is_up_to_date() -> None:
    stale = [str(path.relative_to(ROOT)) for path in sync_chart.stale_files()]

    assert stale == [], "run scripts/sync-chart"


def test_every_setting_is_accepted_or_belongs_elsewhere() -> None:
    accepted = set(sync_chart.setting_names())

    assert {"APP_ENV", "POSTGRES_HOST", "REDIS_PORT", "JWT_ISSUER"} <= accepted
    assert not accepted & {"ENCRYPTION_KEY", "INTERNAL_API_KEY", "DATABASE_URL", "REDIS_PASSWORD", "SERVE", "PORT"}
    assert {name.upper() for name in PARSERS} - accepted - sync_chart.GIVEN == {
        name.upper() for name in PARSERS if sync_chart.SECRET.search(name.upper())
    }


@pytest.mark.parametrize("file", VALUE_FILES, ids=lambda file: str(file.stem))
def test_every_value_file_renders_under_other_names(file: Path) -> None:
    text = template(file, "partOf=accounting", release="other", namespace="elsewhere")
    documents = manifests.parse(text)

    fullname = yaml.safe_load(file.read_text()).get("fullnameOverride", "other-user-service")
    assert {d["metadata"]["namespace"] for d in documents} == {"elsewhere"}
    fixed = {"default-deny", "postgres-user", "redis", "microservices-secrets", "user-service-secrets"}
    for document in documents:
        assert fullname in document["metadata"]["name"] or document["metadata"]["name"] in fixed
    assert "namespace: microservices" not in text
    assert unresolved_references(documents) == []


def unresolved_references(documents: list[Document]) -> list[str]:
    """ConfigMaps, service accounts and scale targets that are named and not rendered, and selectors without pods."""
    names = {(d["kind"], d["metadata"]["name"]) for d in documents} | {("ServiceAccount", "default")}
    templates = [t for d in documents if (t := pod_template(d))]
    templates += [{"spec": d["spec"]} for d in documents if d["kind"] == "Pod"]
    wanted = {
        ("ServiceAccount", t["spec"]["serviceAccountName"]) for t in templates if "serviceAccountName" in t["spec"]
    }
    for pod in (t["spec"] for t in templates):
        for source in (s for c in pod["containers"] for s in c.get("envFrom", [])):
            wanted.add(("ConfigMap", source["configMapRef"]["name"]))
        wanted |= {("ConfigMap", v["configMap"]["name"]) for v in pod.get("volumes", []) if "configMap" in v}
    for document in documents:
        spec = document.get("spec", {})
        if target := spec.get("scaleTargetRef") or spec.get("targetRef"):
            wanted.add((target["kind"], target["name"]))
        for ref in re.findall(r"'kind': '(Broker|JobSink)', 'name': '([\w-]+)'", str(spec)):
            wanted.add(ref)
        if document["kind"] == "Service" and document["apiVersion"] == "v1":
            selector = spec["selector"].items()
            if not any(selector <= t.get("metadata", {}).get("labels", {}).items() for t in templates):
                wanted.add(("Pod of the Service", document["metadata"]["name"]))
    return sorted(f"{kind}/{name}" for kind, name in wanted - names)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("mod=knative", "mod"),
        ("mode=lambda", "mode"),
        ("settings.CACHE_TTLL=300", "CACHE_TTLL"),
        ("settings.ENCRYPTION_KEY=x", "ENCRYPTION_KEY"),
        ("settings.CACHE_TTL=300", "CACHE_TTL"),  # a number
        ("image.digest=sha256:123", "digest"),
        ("knative.timeoutSeconds=30", "timeoutSeconds"),
        (
            "autoscaling.maxReplicas=40",
            "43 pods with 20 connections each can open 860, and postgresMaxConnections is 400",
        ),
        ("localData.enabled=true", "public passwords"),
        ("verticalPodAutoscaler.enabled=true,verticalPodAutoscaler.updateMode=InPlace", "acting VPA"),
        ("mode=knative,ingress.enabled=true", "Knative routes by its own gateway"),
        ("mode=knative,knative.canary.stableRevision=User-Service-1", "stableRevision"),
        ("mode=knative,knative.canary.candidatePercent=101", "candidatePercent"),
        ("mode=knative,knative.canary.candidatePercent=5", "candidatePercent needs knative.canary.stableRevision"),
        ("mode=knative,knative.broker.class=RabbitMQ", "/knative/broker/class"),
        ("mode=knative,knative.broker.rabbitmq.queueType=stream", "queueType"),
        (
            "mode=knative,knative.broker.class=RabbitMQBroker,knative.broker.rabbitmq.connectionSecret=outside",
            "needs knative.broker.rabbitmq.extraEgress",
        ),
        (
            "mode=knative,knative.broker.class=RabbitMQBroker,knative.eventPolicy.enabled=true",
            "RabbitMQ's broker heeds no EventPolicy",
        ),
        ("ingress.enabled=true", "ingress.hosts"),
        ("httpRoute.enabled=true", "parentRefs"),
    ],
)
def test_values_that_can_not_work_are_refused_by_name(setting: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        template(setting)


def hooks(documents: list[Document], event: str) -> dict[tuple[str, str], int]:
    """The objects of a hook with their weights."""
    found = {}
    for document in documents:
        annotations = document["metadata"].get("annotations", {})
        if event in annotations.get("helm.sh/hook", "").split(","):
            key = (document["kind"], document["metadata"]["name"])
            found[key] = int(annotations.get("helm.sh/hook-weight", 0))
    return found


@pytest.mark.parametrize("event", ["pre-install", "pre-upgrade"])
@pytest.mark.parametrize("name", ["deployment-external-secrets", "knative-production"])
def test_the_migration_comes_first_with_all_that_it_needs(name: str, event: str) -> None:
    documents = render_chart(values(name))
    before = hooks(documents, event)
    pod = named(documents, "Job")["spec"]["template"]["spec"]
    needed = {
        ("ServiceAccount", pod["serviceAccountName"]),
        ("ConfigMap", pod["containers"][0]["envFrom"][0]["configMapRef"]["name"]),
        ("NetworkPolicy", "user-service-migrate"),
    }
    if name == "deployment-external-secrets":
        needed.add(("ExternalSecret", "user-service-secrets"))

    job = before.pop(("Job", "user-service-migrate"))
    assert needed <= before.keys()
    assert all(weight < job for weight in before.values())
    settings = {d["metadata"]["name"]: d["data"] for d in documents if "POSTGRES_PORT" in d.get("data", {})}
    assert settings["user-service-migrate"] == settings["user-service-config"]
    # Argo CD ignores all hooks of Helm if an object has one of its own.
    assert "argocd.argoproj.io/hook" not in template(values(name))


def test_with_local_data_the_migration_waits_for_the_database() -> None:
    documents = render_chart(values("deployment-dev"))

    assert ("Job", "user-service-migrate") in hooks(documents, "post-install")
    assert not hooks(documents, "pre-install")


def test_a_changed_setting_rolls_the_pods() -> None:
    def checksums(*settings: str) -> set[str]:
        services = [d for d in render_chart(*settings) if d["kind"] in {"Deployment", "Service"} and pod_template(d)]
        return {d["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for d in services}

    for mode in ("mode=deployment", "mode=knative"):
        assert len(checksums(mode)) == 1
        assert checksums(mode) != checksums(mode, "settings.LOG_LEVEL=debug")


@pytest.mark.parametrize("own_key", [True, False])
def test_helm_test_passes_against_the_service(settings: Settings, tmp_path: Path, own_key: bool) -> None:
    """The Pod's own script, arguments and variables; only the address and the paths are of this machine."""
    documents = render_chart("smokeTest.readOnly=false")
    pod = named(documents, "Pod")["spec"]
    [container] = pod["containers"]
    script = tmp_path / "smoke_test.py"
    script.write_text(named(documents, "ConfigMap", "user-service-smoke-test")["data"]["smoke_test.py"])
    key = tmp_path / ("API_KEY" if own_key else "INTERNAL_API_KEY")
    key.write_text(f"{API_KEY},another-key-of-a-rotation\n")
    projected = {item["path"] for s in pod["volumes"][1]["projected"]["sources"] for item in s["secret"]["items"]}
    assert key.name in projected
    assert container["args"][0] == "--address=http://user-service.microservices:3002"

    with live(settings) as running:
        result = subprocess.run(
            [sys.executable, script, f"--address=http://127.0.0.1:{running.port}", *container["args"][1:]],
            env={variable["name"]: str(tmp_path / Path(variable["value"]).name) for variable in container["env"]},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ok   and gone" in result.stdout


def test_the_candidate_takes_its_share_from_the_stable_revision() -> None:
    revision = "knative.canary.stableRevision=user-service-00001"
    documents = render_chart("mode=knative", revision, "knative.canary.candidatePercent=25")
    traffic = {d["metadata"]["name"]: d["spec"].get("traffic") for d in documents if is_knative_service(d)}

    assert traffic == {
        "user-service": [
            {"tag": "stable", "revisionName": "user-service-00001", "percent": 75},
            {"tag": "candidate", "latestRevision": True, "percent": 25},
        ],
        "user-service-events": None,
    }


def test_a_rabbitmq_outside_the_cluster_is_named_by_its_secret_and_reached() -> None:
    documents = render_chart(values("knative-rabbitmq-outside"))
    [outside] = yaml.safe_load(values("knative-rabbitmq-outside").read_text())["knative"]["broker"]["rabbitmq"][
        "extraEgress"
    ]

    reference = named(documents, "RabbitmqBrokerConfig")["spec"]["rabbitmqClusterReference"]
    egress = named(documents, "NetworkPolicy", "accounts-rabbitmq-broker")["spec"]["egress"]
    assert reference == {"connectionSecret": {"name": "rabbitmq-connection"}}
    assert outside in egress
    assert "rabbitmq" not in str([rule for rule in egress if rule != outside])


@pytest.mark.parametrize(
    "name", ["extraEnv", "image.pullSecrets", "podAnnotations", "jobPodAnnotations", "tolerations"]
)
def test_a_value_that_is_taken_away_leaves_nothing(name: str) -> None:
    assert unresolved_references(render_chart(f"{name}=null")) == []


def test_a_package_of_the_chart_renders_the_same(tmp_path: Path) -> None:
    packed = charts.helm("package", str(CHART), "--destination", str(tmp_path))
    [archive] = tmp_path.glob("user-service-*.tgz")
    assert packed.returncode == 0, packed.stderr

    command = ("template", "user-service", str(archive), "-n", "microservices", "--kube-version", charts.KUBERNETES)
    rendered = charts.helm(*command, "-f", str(values("knative-production")))
    assert manifests.parse(rendered.stdout) == render_chart(values("knative-production"))


def undescribed(document: dict[str, Any], schema: dict[str, Any], place: str = "") -> list[str]:
    """Values that the schema does not describe."""
    found = []
    for name, value in document.items():
        described = schema.get("properties", {}).get(name)
        if described is None:
            found += [] if schema.get("additionalProperties", True) else [f"{place}{name}"]
        elif isinstance(value, dict):
            found += undescribed(value, described, f"{place}{name}.")
    return found


def test_the_schema_knows_every_value_and_no_other() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    assert undescribed(defaults, schema) == []
    assert defaults.keys() == schema["properties"].keys() - {"global"}
    assert len(VALUE_FILES) >= 10


def test_alerts_and_dashboard_find_a_release_of_any_name() -> None:
    documents = render_chart("fullnameOverride=accounts", "monitoring.enabled=true")
    rules = str(named(documents, "PrometheusRule")["spec"])
    dashboard = named(documents, "ConfigMap", "accounts-dashboard")["data"]["user-service.json"]

    patterns = re.findall(r'deployment=~"([^"]+)"', rules)
    assert patterns
    for pattern in patterns:
        for name in ("accounts-deployment", "accounts-events-00003-deployment", "user-service-deployment"):
            assert re.fullmatch(pattern, name), pattern
    assert "((.+-)?user-service|accounts)-.+" in dashboard
    assert named(documents, "ServiceMonitor")["spec"]["jobLabel"] == "app.kubernetes.io/name"


@pytest.mark.parametrize("mode", ["deployment", "knative"])
def test_without_the_operator_the_alerts_are_a_rule_file(mode: str) -> None:
    documents = render_chart(f"mode={mode}", "monitoring.enabled=true", "monitoring.operator=false")

    assert not [d for d in documents if d["apiVersion"].startswith("monitoring.coreos.com/")]
    rules = yaml.safe_load(
        named(documents, "ConfigMap", "user-service-prometheus-rules")["data"]["user-service.rules.yaml"]
    )
    source = yaml.safe_load((ROOT / "k8s-common/components/monitoring/prometheusrule.yaml").read_text())
    assert rules == source["spec"]
    serving = [t for d in documents if (t := pod_template(d)) and t["spec"]["containers"][0]["name"] == "user-service"]
    assert {pod["metadata"]["annotations"]["prometheus.io/port"] for pod in serving} == {"3002"}
