"""What the rendered manifests must hold, and that each check of them can fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import custom_resources
import manifest_rules as rules
import manifests
import pytest
import yaml
from manifests import OVERLAYS, STACKS, named, render, render_text, render_with
from placeholders import find_unfilled_lines

ROOT = Path(__file__).parents[2]
Edit = Callable[[str], str]

needs_renderer = pytest.mark.skipif(
    not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize"
)
pytestmark = needs_renderer


@pytest.fixture(scope="module")
def production() -> dict[str, list[dict[str, Any]]]:
    return {stack: render(f"{folder}/overlays/production") for stack, folder in STACKS.items()}


def test_fallback_scales_stops_and_asks_as_required(production: dict[str, list[dict[str, Any]]]) -> None:
    documents = production["fallback"]
    deployment = named(documents, "Deployment", "user-service-deployment")["spec"]
    scaler = named(documents, "HorizontalPodAutoscaler")["spec"]
    [container] = deployment["template"]["spec"]["containers"]

    assert "replicas" not in deployment
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 15)
    targets = {m["containerResource"]["name"]: m["containerResource"]["target"] for m in scaler["metrics"]}
    assert {name: target["averageUtilization"] for name, target in targets.items()} == {"cpu": 70, "memory": 80}
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert container["resources"] == {
        "requests": {"cpu": "200m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
        "limits": {"cpu": "1000m", "memory": "1Gi", "ephemeral-storage": "2Gi"},
    }
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 15}}
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 30
    assert container["livenessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/api/health/live", "port": 3002}
    assert container["readinessProbe"]["httpGet"] == {"path": "/api/health/ready", "port": 3002}


def test_commands_of_a_guide_find_their_objects(production: dict[str, list[dict[str, Any]]]) -> None:
    documents = production["fallback"]
    service = named(documents, "Service", "user-service")

    assert service["spec"]["ports"][0]["port"] == 3002
    assert service["metadata"]["labels"]["app"] == "user-service"
    namespaces = {d["metadata"].get("namespace", "microservices") for d in documents}
    assert namespaces == {"microservices"}


@pytest.mark.parametrize("folder", STACKS.values())
def test_a_changed_setting_rolls_every_workload(folder: str) -> None:
    [dev, production] = [render(f"{folder}/overlays/{overlay}") for overlay in ("dev", "production")]

    for documents in (dev, production):
        [config] = [d["metadata"]["name"] for d in documents if "POSTGRES_HOST" in d.get("data", {})]
        used = {
            container["envFrom"][0]["configMapRef"]["name"]
            for container in rules.service_containers(documents).values()
        }
        assert used == {config}
    assert rules.settings(dev) != rules.settings(production)
    assert {d["metadata"]["name"] for d in dev if d["kind"] == "ConfigMap"}.isdisjoint(
        d["metadata"]["name"] for d in production if d["kind"] == "ConfigMap"
    )


@pytest.mark.parametrize("folder", STACKS.values())
def test_an_image_is_replaced_everywhere(folder: str, tmp_path: Path) -> None:
    relative = os.path.relpath(ROOT / folder / "overlays" / "production", tmp_path.resolve())
    image = {"name": "user-service", "newName": "registry.test/team/user-service", "newTag": "1.2.3"}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [relative], "images": [image]}))

    templates = [t for d in render(tmp_path.resolve()) if (t := manifests.pod_template(d))]
    assert {c["image"] for t in templates for c in t["spec"]["containers"]} == {"registry.test/team/user-service:1.2.3"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pruning_runs_daily_as_hardened_as_the_migration_and_reaches_the_database(overlay: str) -> None:
    documents = render(overlay)
    cron, migration = named(documents, "CronJob"), named(documents, "Job", "user-service-migrate")
    pod, reference = cron["spec"]["jobTemplate"]["spec"]["template"], migration["spec"]["template"]
    own, others = pod["spec"]["containers"][0], reference["spec"]["containers"][0]

    assert (own["args"], cron["spec"]["schedule"].split()[2:]) == (["prune"], ["*", "*", "*"])
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert {**own, "name": "", "args": []} == {**others, "name": "", "args": []}
    assert {**pod["spec"], "containers": []} == {**reference["spec"], "containers": []}
    labels = pod["metadata"]["labels"].items()
    egress = named(documents, "NetworkPolicy", "user-service-egress")["spec"]
    database = named(documents, "NetworkPolicy", "postgres-user-from-user-service")["spec"]["ingress"][0]
    assert egress["podSelector"]["matchLabels"].items() <= labels
    assert database["from"][0]["podSelector"]["matchLabels"].items() <= labels
    assert not [d for d in documents if "ingress" in d["metadata"]["name"] and selects(d, dict(labels))]


def selects(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))


def test_components_render_on_top_of_production(tmp_path: Path) -> None:
    in_place = render_with("k8s-fallback/overlays/production", ["k8s-fallback/components/vpa-in-place"], tmp_path)
    assert named(in_place, "VerticalPodAutoscaler")["spec"]["updatePolicy"]["updateMode"] == "InPlace"
    assert [metric["type"] for metric in named(in_place, "HorizontalPodAutoscaler")["spec"]["metrics"]] == ["Pods"]
    assert rules.fights(in_place) == []

    kafka = render_with("knative/overlays/production", ["knative/components/kafka-broker"], tmp_path)
    assert named(kafka, "Broker")["metadata"]["annotations"]["eventing.knative.dev/broker.class"] == "Kafka"
    assert named(kafka, "Trigger")["metadata"]["annotations"]["kafka.eventing.knative.dev/delivery.order"] == "ordered"


def test_on_rabbitmq_each_type_has_a_trigger_and_the_broker_is_reached(tmp_path: Path) -> None:
    overlay = "knative/overlays/production"
    usual = named(render(overlay), "Trigger")["spec"]
    rabbit = render_with(overlay, ["knative/components/rabbitmq-broker"], tmp_path)
    broker = named(rabbit, "Broker")
    triggers = [d["spec"] for d in rabbit if d["kind"] == "Trigger"]

    assert broker["metadata"]["annotations"]["eventing.knative.dev/broker.class"] == "RabbitMQBroker"
    assert broker["spec"]["config"]["name"] == named(rabbit, "RabbitmqBrokerConfig")["metadata"]["name"]
    types = {trigger["filter"]["attributes"]["type"] for trigger in triggers}
    assert types == {accepted["exact"]["type"] for accepted in usual["filters"][0]["any"]}
    assert len(triggers) == len(types)
    for trigger in triggers:
        assert {name: trigger[name] for name in ("broker", "subscriber", "delivery")} == {
            name: usual[name] for name in ("broker", "subscriber", "delivery")
        }
    own = {"app.kubernetes.io/name": "user-service"}
    ingress = named(rabbit, "NetworkPolicy", "user-service-rabbitmq-broker")["spec"]["ingress"][0]["from"]
    egress = named(rabbit, "NetworkPolicy", "user-service-egress-to-rabbitmq-broker")["spec"]
    assert {"podSelector": {"matchLabels": own}} in ingress
    assert egress["podSelector"]["matchLabels"] == own


@pytest.mark.parametrize("component", ["vpa-in-place", "kafka-broker", "rabbitmq-broker", "canary"])
def test_components_keep_to_the_custom_resource_definitions(component: str, tmp_path: Path) -> None:
    folder = custom_resources.definitions_folder()
    if folder is None:
        pytest.skip("no custom resource definitions; set CRDS to a folder of them")
    stack = "k8s-fallback" if component == "vpa-in-place" else "knative"

    documents = render_with(f"{stack}/overlays/production", [f"{stack}/components/{component}"], tmp_path)
    checked, problems = custom_resources.problems(documents, folder)
    assert problems == []
    assert checked > 0


WAIVERS = ("kube-score/ignore", "checkov.io/skip", "polaris.fairwinds.com/", "ignore-check.kube-linter.io/")


def test_waivers_of_linters_stand_in_one_place() -> None:
    folders = (ROOT / name for name in ("k8s-common", *STACKS.values()))
    files = [file for folder in folders for file in folder.rglob("*.yaml")]
    waiving = {file for file in files if any(waiver in file.read_text() for waiver in WAIVERS)}

    assert waiving == {ROOT / "k8s-common/components/linter-waivers/kustomization.yaml"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_workload_has_its_waivers(overlay: str) -> None:
    workloads = [document["metadata"] for document in render(overlay) if manifests.pod_template(document)]

    assert workloads
    for workload in workloads:
        assert {"kube-score/ignore", "checkov.io/skip1"} <= workload.get("annotations", {}).keys(), workload["name"]


def test_production_carries_no_secret() -> None:
    for folder in STACKS.values():
        assert not [d for d in render(f"{folder}/overlays/production") if d["kind"] == "Secret"]
        assert find_unfilled_lines(render_text(f"{folder}/overlays/production")) == []
        assert find_unfilled_lines(render_text(f"{folder}/overlays/dev")) != []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_postgres_has_connections_for_the_most_pods(overlay: str) -> None:
    documents = render(overlay)

    used, offered = rules.connections(documents)
    assert rules.over_budget(documents) == []
    assert 0 < used < offered
    for database in (d for d in documents if d["metadata"]["name"] == "postgres-user" and d["kind"] == "StatefulSet"):
        assert f"max_connections={offered}" in database["spec"]["template"]["spec"]["containers"][0]["args"]


def replaced(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text, f"{old!r} is gone; the mutation needs another place"
        return text.replace(old, new)

    return edit


DEPLOYMENT = "k8s-fallback/base/deployment.yaml"
KNATIVE = "knative/base/service.yaml"
MUTATIONS = {
    "a misspelt field": ("schemas", DEPLOYMENT, replaced("maxSurge: 1", "maxSurges: 1"), "maxSurges"),
    "a number for a string": (
        "schemas",
        "k8s-common/base/configmap.yaml",
        replaced('"300"', "300"),
        "300 is not of type",
    ),
    "a field that Knative lacks": (
        "custom-resources",
        KNATIVE,
        replaced("timeoutSeconds: 60", "timeoutSecond: 60"),
        "timeoutSecond",
    ),
    "a field behind a feature flag": (
        "custom-resources",
        KNATIVE,
        replaced("enableServiceLinks: false", "nodeSelector: {disk: ssd}"),
        "nodeSelector",
    ),
    "an environment of one stack": (
        "rules",
        KNATIVE,
        replaced("value: api\n", "value: api\n            - {name: X, value: y}\n"),
        "environment",
    ),
    "probes of one stack": ("rules", KNATIVE, replaced("/api/health/ready", "/healthz"), "probes"),
    "less time to start on one stack": (
        "rules",
        KNATIVE,
        replaced("initialDelaySeconds: 40", "initialDelaySeconds: 10"),
        "probes",
    ),
    "resources of one stack": ("rules", DEPLOYMENT, replaced("cpu: 200m", "cpu: 300m"), "resources"),
    "security of one stack": ("rules", KNATIVE, replaced("runAsUser: 1001", "runAsUser: 1002"), "securityContext"),
    "more pods than connections": ("rules", KNATIVE, replaced('max-scale: "12"', 'max-scale: "15"'), "must stay free"),
    "more replicas than connections": (
        "rules",
        "k8s-fallback/base/hpa.yaml",
        replaced("maxReplicas: 15", "maxReplicas: 18"),
        "must stay free",
    ),
    "an acting VPA": (
        "rules",
        "k8s-fallback/base/vpa.yaml",
        replaced('updateMode: "Off"', "updateMode: InPlace"),
        "acts on",
    ),
    "a placeholder in production": (
        "rules",
        "k8s-common/base/configmap.yaml",
        replaced("postgres-user", "CHANGEME"),
        "CHANGEME",
    ),
    "a shutdown that does not fit": ("rules", DEPLOYMENT, replaced("seconds: 15", "seconds: 20"), "grace period"),
    "a writable root": (
        "kube-score",
        DEPLOYMENT,
        replaced("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
        "writable root filesystem",
    ),
    "escalation on Knative": (
        "checkov",
        KNATIVE,
        replaced("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
        "CKV_K8S_20",
    ),
    "a user that may be root": (
        "kube-linter",
        DEPLOYMENT,
        replaced("runAsNonRoot: true", "runAsNonRoot: false"),
        "run-as-non-root",
    ),
    "escalation on plain Kubernetes": (
        "polaris",
        DEPLOYMENT,
        replaced("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
        "privilege",
    ),
    "root in the image": ("hadolint", "Dockerfile", replaced("USER 1001:1001", "USER root"), "DL3002"),
    "a loose variable": ("shellcheck", "scripts/build-image", replaced('"$tag"', "$tag"), "SC2206"),
    "a job without a runner": (
        "actionlint",
        ".github/workflows/ci-cd.yml",
        replaced("runs-on:", "runs-at:"),
        "runs-at",
    ),
    "a template in a script": (
        "zizmor",
        ".github/workflows/ci-cd.yml",
        replaced("run: scripts/check\n", "run: echo ${{ github.event.issue.title }}\n"),
        "template-injection",
    ),
}


@pytest.fixture
def project_copy(tmp_path: Path) -> Path:
    for name in ("k8s-common", "k8s-fallback", "knative", "scripts", ".ci", ".github"):
        shutil.copytree(ROOT / name, tmp_path / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Dockerfile", tmp_path / "project")
    (tmp_path / "project" / ".git").mkdir()  # actionlint looks for a repository
    return tmp_path / "project"


def check(project: Path, name: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    environment = dict(os.environ)
    tools = os.environ.get("TOOLS_DIR", str(Path.home() / ".cache/user-service/tools"))
    environment["PATH"] = os.pathsep.join(filter(None, [path, f"{tools}/bin", os.environ["PATH"]]))
    if folder := custom_resources.definitions_folder():
        environment["CRDS"] = str(folder)
    command = [sys.executable, "scripts/check_manifests.py", name]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_file_is_refused_by_the_check_that_should_refuse_it(mutation: str, project_copy: Path) -> None:
    name, file, edit, complaint = MUTATIONS[mutation]
    target = project_copy / file
    target.write_text(edit(target.read_text()))

    refusal = check(project_copy, name)
    if refusal.stdout.startswith("NOT RUN"):
        pytest.skip(refusal.stdout.strip())
    assert refusal.returncode == 1
    assert refusal.stdout.startswith(f"FAILED   {name}")
    assert complaint.lower() in refusal.stdout.lower()


def test_renderers_that_disagree_are_noticed(project_copy: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for program, output in (("kubectl", "a: 1"), ("kustomize", "a: 2")):
        (programs / program).write_text(f"#!/bin/sh\necho '{output}'\n")
        (programs / program).chmod(0o755)

    refusal = check(project_copy, "renderers", str(programs))
    assert refusal.returncode == 1
    assert "render it differently" in refusal.stdout


def test_a_check_that_cannot_run_says_so(project_copy: Path) -> None:
    environment = {"PATH": "/nowhere", "HOME": "/nowhere"}
    command = [sys.executable, "scripts/check_manifests.py", "--require-all", "polaris"]
    refusal = subprocess.run(command, cwd=project_copy, env=environment, capture_output=True, text=True, check=False)

    assert refusal.returncode == 1
    assert refusal.stdout.startswith("NOT RUN  polaris")
