"""The deploy script's arguments and plan, through both launchers."""

import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from deploy import make_plan
from deploy_steps import STEPS

from support.recorded_cluster import ROOT, deploy

POWERSHELL = ROOT / "scripts" / "deploy-k8s.ps1"
IMAGE = "registry.test/team/user-service:1.2.3@sha256:" + "0123456789abcdef" * 4
VARIANTS = list(product(("knative", "fallback"), ("dev", "production"), ("", "user-service:0.1.0", IMAGE)))
SETUP = "kubectl --context test apply --filename rendered.yaml --selector app.kubernetes.io/component=setup"
MIGRATE = "kubectl --context test apply --filename rendered.yaml --selector app.kubernetes.io/component=migrate"
REST = (
    "kubectl --context test apply --filename rendered.yaml"
    " --selector app.kubernetes.io/component!=setup,app.kubernetes.io/component!=migrate"
    ",app.kubernetes.io/component!=broker"
)
BROKER = "kubectl --context test apply --filename rendered.yaml --selector app.kubernetes.io/component=broker"
READY = "kubectl --context test wait --for=condition=Ready {} --namespace microservices --timeout 120s"
DELETE_JOB = "kubectl --context test delete job user-service-migrate --namespace microservices --ignore-not-found"
ROLLOUT = "kubectl --context test rollout status {} --namespace microservices --timeout {}"
PLANS = {
    ("knative", "production", IMAGE): [
        "render knative/overlays/production",
        f"set-image {IMAGE}",
        "refuse-placeholders",
        "require-digest",
        "require-kinds",
        SETUP,
        "ensure-secret microservices-secrets",
        DELETE_JOB,
        MIGRATE,
        "wait-migration user-service-migrate",
        "remember cronjob/user-service-prune",
        "remember jobsinks.sinks.knative.dev/user-service-dead-letters",
        "remember services.serving.knative.dev/user-service",
        "remember services.serving.knative.dev/user-service-events",
        BROKER,
        READY.format("brokers.eventing.knative.dev/user-service"),
        READY.format("sinkbindings.sources.knative.dev/user-service"),
        REST,
        "wait-revision user-service",
        "wait-revision user-service-events",
        "smoke-test",
    ],
    ("fallback", "production", ""): [
        "render k8s-fallback/overlays/production",
        "refuse-placeholders",
        "require-digest",
        "require-kinds",
        SETUP,
        "ensure-secret microservices-secrets",
        DELETE_JOB,
        MIGRATE,
        "wait-migration user-service-migrate",
        "remember cronjob/user-service-prune",
        "remember deployment/user-service-deployment",
        REST,
        "wait-rollout user-service-deployment",
        "wait-replicas 3",
        "smoke-test",
    ],
    ("fallback", "dev", ""): [
        "render k8s-fallback/overlays/dev",
        "require-kinds",
        SETUP,
        ROLLOUT.format("statefulset/postgres-user", "180s"),
        ROLLOUT.format("deployment/redis", "180s"),
        DELETE_JOB,
        MIGRATE,
        "wait-migration user-service-migrate",
        "remember cronjob/user-service-prune",
        "remember deployment/user-service-deployment",
        REST,
        "wait-rollout user-service-deployment",
        "smoke-test",
    ],
}

needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="the deploy script needs kubectl on PATH")
needs_powershell = pytest.mark.skipif(not shutil.which("pwsh"), reason="PowerShell is not on PATH")


def print_plan(stack: str, overlay: str, image: str = "") -> list[str]:
    options = ["--stack", stack, "--overlay", overlay, "--context", "test", "--dry-run"]
    if image:
        options += ["--image", image]
    result = deploy(*options)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def run_powershell(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["pwsh", "-NoProfile", "-File", str(POWERSHELL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_kubectl
@pytest.mark.parametrize(("stack", "overlay", "image"), VARIANTS)
def test_a_dry_run_prints_the_plan(stack: str, overlay: str, image: str) -> None:
    plan = print_plan(stack, overlay, image)

    assert plan[0] == f"render {'knative' if stack == 'knative' else 'k8s-fallback'}/overlays/{overlay}"
    assert (f"set-image {image}" in plan) == bool(image)
    assert ("require-digest" in plan) == (overlay == "production")
    assert ("refuse-placeholders" in plan) == (overlay == "production")
    assert plan[-1] == "smoke-test"


@needs_kubectl
@pytest.mark.parametrize("variant", PLANS)
def test_a_plan_has_its_steps_in_order(variant: tuple[str, str, str]) -> None:
    assert print_plan(*variant) == PLANS[variant]


def test_every_step_has_an_implementation() -> None:
    names = {step[0] for variant in VARIANTS for step in make_plan(*variant, "test")}

    assert names == set(STEPS)


@needs_powershell
@needs_kubectl
@pytest.mark.parametrize("spelling", ["PowerShell", "Unix"])
def test_powershell_prints_the_plan_that_bash_prints(spelling: str) -> None:
    options = ["--stack", "knative", "--overlay", "production", "--image", IMAGE, "--context", "test", "--dry-run"]
    if spelling == "PowerShell":
        options = ["-Stack", "knative", "-Overlay", "production", "-Image", IMAGE, "-Context", "test", "-DryRun"]

    result = run_powershell(*options)
    assert result.stdout.splitlines() == print_plan("knative", "production", IMAGE)


@needs_powershell
def test_powershell_returns_the_exit_status() -> None:
    result = run_powershell("--stack", "other")

    assert result.returncode == 1
    assert "not 'other'" in result.stderr


def test_the_powershell_launcher_hands_all_arguments_over() -> None:
    """What can be said of it where no PowerShell is."""
    lines = [line.strip() for line in POWERSHELL.read_text().splitlines()]

    assert "& $Name (Join-Path $PSScriptRoot 'deploy.py') $args" in lines
    assert "exit $LASTEXITCODE" in lines
    assert not any(line.startswith("param") for line in lines)  # it would take arguments away from $args


@needs_kubectl
def test_options_may_be_spelled_as_in_powershell() -> None:
    options = ["-Stack", "knative", "-overlay", "production", "-Image", IMAGE, "-Context", "test", "-DryRun"]

    assert deploy(*options).stdout.splitlines() == print_plan("knative", "production", IMAGE)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--stack", "other"], "--stack is knative, fallback or auto, not 'other'"),
        (["--overlay", "staging"], "--overlay is dev or production, not 'staging'"),
        (["--force"], "unknown argument '--force'; see scripts/deploy-k8s.sh --help"),
        (["production"], "unknown argument 'production'; see scripts/deploy-k8s.sh --help"),
        (["--dry"], "unknown argument '--dry'; see scripts/deploy-k8s.sh --help"),
        (["--image", ""], "--image needs a value"),
        (["--image"], "--image"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: list[str], reason: str) -> None:
    result = deploy(*options)

    assert result.returncode == 1
    assert result.stderr.startswith("deploy-k8s: ")
    assert reason in result.stderr


def test_help_names_every_option() -> None:
    result = deploy("--help")

    assert result.returncode == 0
    for option in ("--stack", "--overlay", "--image", "--context", "--dry-run"):
        assert option in result.stdout


@needs_kubectl
def test_without_a_cluster_it_says_how_to_name_one(tmp_path: Path) -> None:
    result = deploy("--dry-run", environment=dict(os.environ) | {"KUBECONFIG": str(tmp_path / "none")})

    assert result.returncode == 1
    assert "no cluster: set KUBECONFIG, or name a context with --context" in result.stderr


def test_without_kubectl_it_says_so(tmp_path: Path) -> None:
    for name, program in {"python3": sys.executable, "bash": "/bin/bash", "dirname": "/usr/bin/dirname"}.items():
        (tmp_path / name).symlink_to(program)

    result = deploy("--context", "test", environment={"PATH": str(tmp_path)})
    assert result.returncode == 1
    assert "kubectl is not on PATH" in result.stderr
