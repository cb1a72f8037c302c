"""A cluster that a deployment can be run against: a kubectl that records what it is asked and answers as it is told."""

import base64
import os
import shutil
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "scripts" / "deploy-k8s.sh"

# Renders with the real kubectl, and answers for the cluster. What it is asked is in the file CALLS.
CLUSTER = r"""#!/usr/bin/env bash
set -u
all="$*"
[ "$1" = kustomize ] && { "$REAL_KUBECTL" "$@" && printf '%s' "$MORE_MANIFESTS"; exit; }
printf '%s\n' "$*" >>"$CALLS"
case "$*" in
  *"$FAIL_ON"*) [ -z "$FAIL_ON" ] || { echo "the cluster refuses" >&2; exit 1; } ;;
esac
[ -n "$HANG_ON" ] && case "$*" in *"$HANG_ON"*) exec sleep 60 ;; esac
case "$*" in
  *" apply --filename "*) cp "$5" "$CALLS.applied" ;;
  *api-versions*) printf 'apps/v1\n%s\n' "$SERVES" ;;
  *api-resources*) tr ' ' '\n' <<<"$KINDS" ;;
  *"create secret generic user-service-smoke-test"*) cp "${all##*--from-file=}" "$CALLS.smoke_test_key" ;;
  *"create secret"*) cp "${all##*--from-file=}/API_KEYS" "$CALLS.api_keys"
    ls "${all##*--from-file=}" >"$CALLS.secret" ;;
  *"get secret user-service-smoke-test"*) printf '%s' "$SMOKE_TEST_KEY" ;;
  *"get secret microservices-secrets --output"*) printf '%s' "$API_KEY" ;;
  *"get secret"*) exit "$SECRET_IS_MISSING" ;;
  *"jsonpath={.spec."*) printf '%s' "$FORMER" ;;
  *"get job"*) [ -n "$COMPLETE_AFTER_LOG" ] && [ -e "$CALLS.logs" ] && MIGRATION=Complete; printf '%s' "$MIGRATION" ;;
  *"get services.serving"*) printf '%s' "$REVISION" ;;
  *"get pods"*"--output json"*) printf '%s' "$PODS" ;;
  *"get replicasets"*) printf '%s' "$REPLICA_SETS" ;;
  *" logs "*) echo "$LOG" | tee -a "$CALLS.logs" ;;
  *"rollout status deployment/user-service-deployment"*) printf '%s' "$ROLLOUT" ;;
  *"readyReplicas"*) printf 3 ;;
  *--patch-file*) tee "$CALLS.patch" <"${all##*--patch-file }" >"$CALLS.patch.${6%%/*}" ;;
  *port-forward*) echo "Forwarding from 127.0.0.1:$FORWARDED -> 3002"; exec sleep 60 ;;
esac
"""
KINDS = (
    "Namespace ServiceAccount Role RoleBinding ConfigMap NetworkPolicy Job CronJob Deployment Service "
    "HorizontalPodAutoscaler VerticalPodAutoscaler PodDisruptionBudget ServiceMonitor PodMonitor Secret StatefulSet "
    "Broker Trigger SinkBinding PingSource JobSink EventType PrometheusRule ConfigMap"
)


def deploy(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(DEPLOY), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


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
        self.temporary_files = folder / "temporary"
        self.temporary_files.mkdir()
        self.environment = dict(os.environ) | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "REAL_KUBECTL": real,
            "CALLS": str(self.calls_file),
            "KINDS": KINDS,
            "SERVES": "",
            "TMPDIR": str(self.temporary_files),
            "FAIL_ON": "",
            "HANG_ON": "",
            "MORE_MANIFESTS": "",
            "FORWARDED": "9",
            "API_KEY": base64.b64encode(b"key").decode(),
            "SMOKE_TEST_KEY": "",
            "SMOKE_SECONDS": "0",
            "SECRET_IS_MISSING": "0",
            "MIGRATION": "Complete",
            "COMPLETE_AFTER_LOG": "",
            "REVISION": "2 2 new new True",
            "ROLLOUT": 'deployment "user-service-deployment" successfully rolled out',
            "REPLICA_SETS": '{"items": []}',
            "PODS": '{"items": []}',
            "LOG": "",
            "FORMER": '{"spec":{"containers":[{"image":"former"}]}}',
        }

    def deploy(self, *arguments: str, **recorded: str) -> "subprocess.CompletedProcess[str]":
        return deploy("--context", "test", *arguments, environment=self.environment | recorded)

    def start(self, *arguments: str, **recorded: str) -> "subprocess.Popen[str]":
        command = ["bash", str(DEPLOY), "--context", "test", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment | recorded, stdout=pipe, stderr=pipe, text=True)

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def asked(self, *words: str) -> bool:
        return any(all(word in call for word in words) for call in self.calls)
