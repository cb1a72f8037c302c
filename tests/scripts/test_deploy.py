"""The deploy scripts: one plan for bash and PowerShell, and what bash does with it against a recorded cluster."""

import json
import os
import re
import shutil
import stat
import subprocess
from itertools import product
from pathlib import Path

import pytest
from manifests import renderers

import powershell

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "deploy-k8s.sh"
POWERSHELL = ROOT / "scripts" / "deploy-k8s.ps1"
IMAGE = "registry.test/team/user-service:1.2.3@sha256:" + "0123456789abcdef" * 4
VARIANTS = list(product(("knative", "fallback"), ("dev", "production"), ("", "user-service:0.1.0", IMAGE)))

# Answers for the cluster; renders with the real kubectl. What it was asked is in the file CALLS.
CLUSTER = r"""#!/usr/bin/env bash
set -u
all="$*"
[ "$1" = kustomize ] && exec "$REAL_KUBECTL" "$@"
printf '%s\n' "$*" >>"$CALLS"
case "$*" in
  *"$FAIL_ON"*) [ -z "$FAIL_ON" ] || { echo "the cluster refuses" >&2; exit 1; } ;;
esac
case "$*" in
  *api-versions*) printf 'apps/v1\n%s\n' "$SERVES" ;;
  *api-resources*) tr ' ' '\n' <<<"$KINDS" ;;
  *"create secret"*) ls "${all##*--from-file=}" >"$CALLS.secret" ;;
  *"get secret microservices-secrets --output"*) printf 'a2V5' ;;
  *"get secret"*) exit "$SECRET_IS_MISSING" ;;
  *"get job"*) printf '%s' "$MIGRATION" ;;
  *"jsonpath={.spec.template}"*) printf '%s' "$FORMER" ;;
  *"get services.serving"*) printf '2 2 new new True' ;;
  *"readyReplicas"*) printf 3 ;;
  *--patch-file*) cat "${all##*--patch-file }" >"$CALLS.patch" ;;
  *port-forward*) echo 'Forwarding from 127.0.0.1:9 -> 3002'; exec sleep 60 ;;
esac
"""
KINDS = (
    "Namespace ServiceAccount Role RoleBinding ConfigMap NetworkPolicy Job CronJob Deployment Service "
    "HorizontalPodAutoscaler VerticalPodAutoscaler PodDisruptionBudget ServiceMonitor PodMonitor Secret StatefulSet "
    "Broker Trigger SinkBinding PingSource JobSink PrometheusRule ConfigMap"
)


def plan_of_bash(stack: str, overlay: str, image: str) -> list[str]:
    command = ["bash", str(SCRIPT), "--stack", stack, "--overlay", overlay, "--context", "test", "--dry-run"]
    if image:
        command += ["--image", image]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def plan_of_powershell(stack: str, overlay: str, image: str) -> list[str]:
    if pwsh := shutil.which("pwsh"):
        command = [pwsh, "-NoProfile", "-File", str(POWERSHELL), "-Stack", stack, "-Overlay", overlay]
        command += ["-Image", image] if image else []
        command += ["-Context", "test", "-DryRun"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    function = powershell.functions(powershell.parse(POWERSHELL.read_text()))["Get-Plan"]
    return list(powershell.call(function, [stack, overlay, image, "test"]))


@pytest.mark.skipif(not shutil.which("kubectl"), reason="the deploy scripts need kubectl on PATH")
@pytest.mark.parametrize(("stack", "overlay", "image"), VARIANTS)
def test_both_scripts_print_the_same_plan(stack: str, overlay: str, image: str) -> None:
    plan = plan_of_bash(stack, overlay, image)

    assert plan == plan_of_powershell(stack, overlay, image)
    assert plan[0] == f"render {'knative' if stack == 'knative' else 'k8s-fallback'}/overlays/{overlay}"
    assert ("require-digest" in plan) == (overlay == "production")
    assert plan[-1] == "smoke-test"


def test_every_step_has_a_function_in_both_scripts() -> None:
    steps = {step.split(" ", 1)[0] for variant in VARIANTS for step in plan_of_powershell(*variant)} - {"kubectl"}
    handled = set(re.findall(r"^        '([\w-]+)' \{", POWERSHELL.read_text(), re.MULTILINE))

    assert steps <= handled
    assert steps <= set(re.findall(r"^([\w-]+)\(\) \{", SCRIPT.read_text(), re.MULTILINE))


def test_a_plan_that_differs_is_noticed() -> None:
    source = POWERSHELL.read_text().replace("'wait-replicas 3'", "'wait-replicas 2'")
    function = powershell.functions(powershell.parse(source))["Get-Plan"]

    assert powershell.call(function, ["fallback", "production", "", "test"]) != plan_of_bash(
        "fallback", "production", ""
    )


def test_broken_powershell_does_not_parse() -> None:
    with pytest.raises(SyntaxError, match="line"):
        powershell.parse(POWERSHELL.read_text().replace("if ($DryRun) {", "if ($DryRun {", 1))


class Cluster:
    """A kubectl on PATH that records what it is asked and answers as it is told."""

    def __init__(self, folder: Path) -> None:
        self.calls_file = folder / "calls"
        programs = folder / "programs"
        programs.mkdir()
        (programs / "kubectl").write_text(CLUSTER)
        (programs / "kubectl").chmod(stat.S_IRWXU)
        real = shutil.which("kubectl")
        assert real
        self.environment = dict(os.environ) | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "REAL_KUBECTL": real,
            "CALLS": str(self.calls_file),
            "KINDS": KINDS,
            "SERVES": "",
            "FAIL_ON": "",
            "SMOKE_SECONDS": "0",
            "SECRET_IS_MISSING": "0",
            "MIGRATION": "Complete",
            "FORMER": '{"spec":{"containers":[{"image":"former"}]}}',
        }

    def deploy(self, *arguments: str, **answers: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(SCRIPT), "--context", "test", *arguments]
        environment = self.environment | answers
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def asked(self, *words: str) -> bool:
        return any(all(word in call for word in words) for call in self.calls)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    if "kubectl" not in renderers():
        pytest.skip("the deploy scripts need kubectl on PATH")
    return Cluster(tmp_path)


@pytest.mark.parametrize(("serves", "stack"), [("serving.knative.dev/v1", "knative"), ("batch/v1", "k8s-fallback")])
def test_auto_looks_for_the_api_of_knative(cluster: Cluster, serves: str, stack: str) -> None:
    result = cluster.deploy("--dry-run", SERVES=serves)

    assert result.stdout.splitlines()[0] == f"render {stack}/overlays/dev"


def test_production_refuses_an_image_without_a_digest(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "fallback", "--overlay", "production", "--image", "registry.test/user-service:1")

    assert result.returncode == 1
    assert "by digest" in result.stderr
    assert not cluster.asked("apply")


def test_production_refuses_placeholders(cluster: Cluster) -> None:
    image = "registry.test/user-service:latest@" + IMAGE.partition("@")[2]
    result = cluster.deploy("--stack", "knative", "--overlay", "production", "--image", image)

    assert result.returncode == 1
    assert "nobody has filled in" in result.stderr
    assert not cluster.asked("apply")


def test_a_kind_that_the_cluster_lacks_is_named(cluster: Cluster) -> None:
    kinds = KINDS.replace("VerticalPodAutoscaler ", "")
    result = cluster.deploy("--stack", "fallback", "--overlay", "production", "--image", IMAGE, KINDS=kinds)

    assert result.returncode == 1
    assert "VerticalPodAutoscaler" in result.stderr
    assert not cluster.asked("apply")


def test_a_missing_secret_is_made_without_showing_it(cluster: Cluster) -> None:
    passwords = {"POSTGRES_USER_PASSWORD": "a-postgres-password", "REDIS_PASSWORD": "a-redis-password"}
    arguments = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
    result = cluster.deploy(*arguments, SECRET_IS_MISSING="1", **passwords)

    keys = Path(f"{cluster.calls_file}.secret").read_text().split()
    assert sorted(keys) == ["ENCRYPTION_KEY", "INTERNAL_API_KEY", "POSTGRES_USER_PASSWORD", "REDIS_PASSWORD"]
    assert not any(password in call for call in cluster.calls for password in passwords.values())
    assert not any(password in result.stdout + result.stderr for password in passwords.values())


@pytest.mark.parametrize("value", ["", "changeme"])
def test_a_secret_is_not_made_of_nothing_or_of_a_placeholder(cluster: Cluster, value: str) -> None:
    arguments = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
    result = cluster.deploy(*arguments, SECRET_IS_MISSING="1", POSTGRES_USER_PASSWORD="x" * 20, REDIS_PASSWORD=value)

    assert result.returncode == 1
    assert "REDIS_PASSWORD" in result.stderr
    assert not cluster.asked("create", "secret")


def test_a_failed_migration_leaves_the_running_version_alone(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "fallback", MIGRATION="Failed")

    assert result.returncode == 1
    assert "migration did not finish" in result.stderr
    assert not cluster.asked("apply", "component!=setup")
    assert not cluster.asked("patch")


def test_a_failed_rollout_brings_the_former_template_back(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "fallback", FAIL_ON="rollout status deployment/user-service-deployment")

    assert result.returncode == 1
    assert "failed at: kubectl --context test rollout status" in result.stderr
    assert "rolled back deployment/user-service-deployment" in result.stderr
    [patch] = json.loads(Path(f"{cluster.calls_file}.patch").read_text())
    assert patch["path"] == "/spec/template"
    assert patch["value"]["spec"]["containers"] == [{"image": "former"}]


def test_a_failed_first_installation_says_that_nothing_can_be_put_back(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "knative", FORMER="", FAIL_ON="component!=setup")

    assert result.returncode == 1
    assert "no former version" in result.stderr
    assert not cluster.asked("patch")


def test_a_service_that_fails_the_smoke_test_is_rolled_back(cluster: Cluster) -> None:
    """Nothing listens on the port that the cluster forwards, so the smoke test fails after all steps succeeded."""
    result = cluster.deploy("--stack", "knative")

    assert result.returncode == 1
    assert "FAIL it is ready" in result.stderr
    assert "rolled back services.serving.knative.dev/user-service services" in result.stderr
    kubectl_steps = [s.removeprefix("kubectl ") for s in plan_of_bash("knative", "dev", "") if s.startswith("kubectl")]
    assert [step.split()[2] for step in kubectl_steps] == ["apply", "rollout", "rollout", "delete", "apply", "apply"]
    assert all(cluster.asked(*step.replace("rendered.yaml", "").split()) for step in kubectl_steps)
