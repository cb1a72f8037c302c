"""Clusters with rules of their own: another address, no Prometheus Operator, Pod Security, other names."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import manifest_rules as rules
import manifests
import pytest
import yaml
from manifests import OVERLAYS, ROOT, STACKS, Document, named, parse, pod_template, render, render_with

pytestmark = pytest.mark.skipif(
    not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize"
)
OBSERVABILITY = (ROOT / "docs/observability.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a renderer finds a repository with the manifests of this one."""
    clone = tmp_path_factory.mktemp("remote") / "user-service"
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "manifests"]):
        if command[0] == "init":
            clone.mkdir()
            for folder in ("k8s-common", *STACKS.values()):
                shutil.copytree(ROOT / folder, clone / folder)
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *command], cwd=clone, check=True)
    return f"file://{clone}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_rendered_from_the_address_of_the_repository(overlay: str, address: str) -> None:
    program = next(iter(manifests.renderers().values()))
    remote = subprocess.run([*program, f"{address}//{overlay}?ref=HEAD"], capture_output=True, text=True, check=False)
    assert remote.returncode == 0, remote.stderr
    assert parse(remote.stdout) == render(overlay)


def test_the_documented_overlay_needs_no_clone(address: str, tmp_path: Path) -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```yaml\n(apiVersion: kustomize.config.k8s.io/v1beta1\n.*?)```", page, re.DOTALL)
    text = re.sub(r"\?ref=v[\w.]+", "?ref=HEAD", text.replace("https://HOST/OWNER/user-service", address))
    digest = f"sha256:{'0' * 64}"
    (tmp_path / "kustomization.yaml").write_text(text.replace("sha256:...", digest))

    documents = render(tmp_path)
    assert {d["metadata"].get("namespace", "accounts") for d in documents} == {"accounts"}
    assert named(documents, "Namespace")["metadata"]["name"] == "accounts"
    assert not [d for d in documents if d["apiVersion"].startswith("monitoring.coreos.com/")]
    [settings] = [d for d in documents if d["metadata"]["name"].startswith("user-service-config-")]
    [rule] = [
        r for r in named(documents, "NetworkPolicy", "user-service-egress")["spec"]["egress"] if "10.20." in str(r)
    ]
    assert settings["data"]["POSTGRES_HOST"] == "users.db.internal"
    assert rule["ports"] == [{"protocol": "TCP", "port": int(settings["data"]["POSTGRES_PORT"])}]
    pods = [pod for document in documents if (pod := pod_template(document))]
    assert {c["envFrom"][0]["configMapRef"]["name"] for pod in pods for c in pod["spec"]["containers"]} == {
        settings["metadata"]["name"]
    }
    assert {c["image"] for pod in pods for c in pod["spec"]["containers"]} == {f"REGISTRY/user-service@{digest}"}
    for problem in (*rules.over_budget(documents), *rules.fights(documents), *rules.unrestricted(documents)):
        pytest.fail(problem)


@pytest.mark.parametrize("stack", STACKS.values())
def test_without_the_operator_nothing_of_it_is_left(stack: str, tmp_path: Path) -> None:
    documents = render_with(f"{stack}/base", ["k8s-common/components/monitoring-without-operator"], tmp_path)

    assert not [d for d in documents if d["apiVersion"].startswith("monitoring.coreos.com/")]
    assert named(documents, "ConfigMap", "user-service-dashboard")
    pods = [t for d in documents if (t := pod_template(d)) and t["spec"]["containers"][0]["name"] == "user-service"]
    for pod in pods:
        annotations = pod["metadata"]["annotations"]
        assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/path"]) == ("true", "/metrics")
        assert annotations["prometheus.io/port"] == str(pod["spec"]["containers"][0]["ports"][0]["containerPort"])


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not on PATH (Debian package prometheus)")
def test_prometheus_takes_the_documented_configuration_and_rules(tmp_path: Path) -> None:
    [scrape] = re.findall(r"```yaml\n(scrape_configs:.*?)```", OBSERVABILITY, re.DOTALL)
    [command] = re.findall(r"^sed -n .*$", OBSERVABILITY, re.MULTILINE)
    rule_file = tmp_path / "user-service.rules.yaml"
    subprocess.run(["sh", "-c", command.partition(" > ")[0] + f" > {rule_file}"], cwd=ROOT, check=True)
    # Debian's Prometheus is built without the discovery of Kubernetes.
    discovery = "kubernetes_sd_configs:\n      - role: pod\n"
    assert discovery in scrape
    scrape = scrape.replace(discovery, "static_configs:\n      - targets: [127.0.0.1:3002]\n")
    (tmp_path / "prometheus.yml").write_text(f"rule_files: [{rule_file.name}]\n{scrape}")

    assert yaml.safe_load(rule_file.read_text())["groups"] == named(rule(), "PrometheusRule")["spec"]["groups"]
    checked = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def rule() -> list[Document]:
    return parse((ROOT / "k8s-common/components/monitoring/prometheusrule.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_keeps_to_pod_security_restricted(overlay: str, tmp_path: Path) -> None:
    documents = render_with(overlay, ["k8s-common/components/pod-security"], tmp_path)

    labels = named(documents, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert rules.unrestricted(documents) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"runAsNonRoot": False}, "runAsNonRoot"),
        ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"),
        ({"capabilities": {"add": ["NET_ADMIN"]}}, "capabilities"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile"),
    ],
)
def test_a_looser_pod_is_found(change: dict[str, Any], field: str) -> None:
    documents = render("k8s-fallback/overlays/production")
    [container] = named(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    container["securityContext"] |= change

    [problem] = rules.unrestricted(documents)
    assert problem.startswith(f"Deployment/user-service-deployment: user-service: {field}")


@pytest.mark.parametrize("name", ["user-service", "accounts-user-service", "accounts-user-service-events-00007"])
def test_the_alerts_find_deployments_of_any_prefix(name: str) -> None:
    patterns = re.findall(r'deployment=~"([^"]+)"', str(rule()))

    assert len(patterns) == 2
    for pattern in patterns:
        assert re.fullmatch(pattern, f"{name}-deployment")
        assert not re.fullmatch(pattern, "other-deployment")
