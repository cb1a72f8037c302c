"""The steps of scripts/deploy.py: what each does to the cluster, and the rollback.

A step returns what it has to say, or raises StepFailed with the reason.
"""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMESPACE = "microservices"
PLACEHOLDER = re.compile(r"development-only|change-?me|replace-?me|placeholder|example\.com|:latest", re.IGNORECASE)
MIGRATION_STATE = 'jsonpath={.status.conditions[?(@.status=="True")].type}'
SECRET_KEYS = ("POSTGRES_USER_PASSWORD", "REDIS_PASSWORD", "ENCRYPTION_KEY", "INTERNAL_API_KEY")
GENERATED_KEYS: dict[str, Callable[[], str]] = {
    "ENCRYPTION_KEY": lambda: "k1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
    "INTERNAL_API_KEY": lambda: secrets.token_hex(32),
}
REVISION_STATE = (
    "jsonpath={.metadata.generation} {.status.observedGeneration} {.status.latestCreatedRevisionName} "
    '{.status.latestReadyRevisionName} {.status.conditions[?(@.type=="Ready")].status}'
)
POLL_SECONDS = 2.0

Plan = list[tuple[str, ...]]
Completed = subprocess.CompletedProcess[str]


class StepFailed(Exception):
    """Says what went wrong and, where it is known, what to do about it."""


def run(*command: str, env: Mapping[str, str] | None = None) -> Completed:
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def succeed(answer: Completed) -> str:
    """The whole output of a command that succeeded."""
    output = (answer.stdout + answer.stderr).rstrip()
    if answer.returncode:
        raise StepFailed(output)
    return output


@dataclass
class Deployment:
    """One run on one cluster. `work` is a temporary folder of the run's own."""

    stack: str
    overlay: str
    context: str
    work: Path
    overlay_folder: Path = Path()
    previous_templates: dict[str, Any] = field(default_factory=dict)

    @property
    def rendered(self) -> Path:
        return self.work / "rendered.yaml"

    def kubectl(self, *arguments: str) -> Completed:
        return run("kubectl", "--context", self.context, "--namespace", NAMESPACE, *arguments)

    def run_kubectl_step(self, *arguments: str) -> str:
        """A step of the plan that is a kubectl command, as it stands there."""
        return succeed(run("kubectl", *(str(self.rendered) if a == "rendered.yaml" else a for a in arguments)))

    def render(self, folder: str) -> None:
        self.overlay_folder = Path(folder)
        self.render_kustomization(self.overlay_folder)

    def render_kustomization(self, folder: Path) -> None:
        answer = run("kubectl", "kustomize", str(folder))
        if answer.returncode:
            raise StepFailed(f"{folder} does not render: {answer.stderr.strip()}")
        self.rendered.write_text(answer.stdout, encoding="utf-8")

    def set_image(self, image: str) -> None:
        """Render the overlay again with the service's image replaced in every workload."""
        name, _, digest = image.partition("@")
        path, slash, last = name.rpartition("/")
        last, _, tag = last.partition(":")
        replacement = {"name": "user-service", "newName": path + slash + last, "newTag": tag, "digest": digest}
        kustomization = {
            "resources": [Path(os.path.relpath(self.overlay_folder.resolve(), self.work)).as_posix()],
            "images": [{key: value for key, value in replacement.items() if value}],
        }
        # Kustomize reads YAML, which JSON is a part of.
        (self.work / "kustomization.yaml").write_text(json.dumps(kustomization), encoding="utf-8")
        self.render_kustomization(self.work)

    def rendered_lines(self) -> list[str]:
        return self.rendered.read_text(encoding="utf-8").splitlines()

    def refuse_placeholders(self) -> None:
        found = [f"{n}:{line}" for n, line in enumerate(self.rendered_lines(), start=1) if PLACEHOLDER.search(line)]
        if found:
            raise StepFailed("\n".join(["these values are placeholders and must be filled in:", *found]))

    def require_digest(self) -> None:
        images = [line for line in self.rendered_lines() if re.match(r" *(- )?image: ", line)]
        if found := [line for line in images if "@sha256:" not in line]:
            advice = "production takes an image by digest: --image REGISTRY/NAME:TAG@sha256:..."
            raise StepFailed("\n".join([*found, advice]))

    def require_kinds(self) -> None:
        # The exit status tells also of an API group that is unavailable and not needed here: the kinds decide.
        answer = self.kubectl("api-resources", "--no-headers")
        known = {line.split()[-1] for line in answer.stdout.splitlines() if line.strip()}
        used = {line.split()[1] for line in self.rendered_lines() if line.startswith("kind: ")}
        if missing := sorted(used - known):
            raise StepFailed(
                f"{answer.stderr}the cluster does not know: {' '.join(missing)}; "
                "install what defines them, or leave their component out of the overlay"
            )

    def ensure_secret(self, name: str) -> str | None:
        if self.kubectl("get", "secret", name).returncode == 0:
            return None
        if any(line.startswith("kind: ExternalSecret") for line in self.rendered_lines()):
            return succeed(self.kubectl("wait", "--for=condition=Ready", f"externalsecret/{name}", "--timeout", "120s"))
        return self.create_secret(name)

    def create_secret(self, name: str) -> str:
        """Create it from the environment. Values go through files: arguments show in the list of processes."""
        folder = self.work / "secret"
        folder.mkdir(mode=0o700)
        generated = []
        for key in SECRET_KEYS:
            value = os.environ.get(key, "")
            if not value:
                if key not in GENERATED_KEYS:
                    raise StepFailed(f"the Secret {name} is missing, and so is {key} in the environment to create it")
                value = GENERATED_KEYS[key]()
                generated.append(f"generated {key}; keep a copy apart from the backups (docs/backup-and-recovery.md)")
            if PLACEHOLDER.search(value):
                raise StepFailed(f"{key} is a placeholder")
            (folder / key).touch(mode=0o600)
            (folder / key).write_bytes(value.encode())
        output = succeed(self.kubectl("create", "secret", "generic", name, f"--from-file={folder}"))
        for key in SECRET_KEYS:
            (folder / key).unlink()
        folder.rmdir()
        return "\n".join([*generated, output]).rstrip()

    def wait_migration(self, job: str) -> None:
        state = ""
        for _ in attempts(300):
            answer = self.kubectl("get", "job", job, "--output", MIGRATION_STATE)
            state = answer.stdout or answer.stderr
            if "Complete" in answer.stdout:
                return
            if "Failed" in answer.stdout:
                break
        log = self.kubectl("logs", f"job/{job}", "--tail", "30")
        reason = f"the migration did not finish ({state.strip() or 'still running'}); its log:"
        raise StepFailed(f"{reason}\n{log.stdout}{log.stderr}".rstrip())

    def remember(self, workload: str) -> None:
        """Keep the pod template that is in force, for the rollback."""
        answer = self.kubectl("get", workload, "--output", "jsonpath={.spec.template}")
        if answer.returncode == 0 and answer.stdout:
            self.previous_templates[workload] = json.loads(answer.stdout)

    def wait_revision(self, service: str) -> None:
        """Wait for the newest revision: the service's Ready can still be that of the previous one."""
        seen = ""
        for _ in attempts(150):
            answer = self.kubectl("get", f"services.serving.knative.dev/{service}", "--output", REVISION_STATE)
            seen = answer.stdout or answer.stderr
            if is_newest_revision_ready(answer.stdout.split()):
                return
        raise StepFailed(f"the newest revision of {service} did not become ready: {seen.strip()}")

    def wait_replicas(self, count: str) -> None:
        ready = 0
        for _ in attempts(90):
            answer = self.kubectl(
                "get", "deployment/user-service-deployment", "--output", "jsonpath={.status.readyReplicas}"
            )
            ready = int(answer.stdout or 0)
            if ready >= int(count):
                return
        advice = f"kubectl --context {self.context} describe hpa --namespace {NAMESPACE}"
        raise StepFailed(f"{ready} replicas are ready, not {count}: {advice}")

    def smoke_test(self) -> str:
        """Run scripts/smoke_test.py against the service, on Knative through its gateway."""
        namespace, service, port = NAMESPACE, "user-service", 3002
        options = ["--wait", os.environ.get("SMOKE_SECONDS") or "60"]
        if self.stack == "knative":
            gateway = os.environ.get("KNATIVE_GATEWAY") or "kourier-system/kourier-internal"
            namespace, _, service = gateway.partition("/")
            port = 80
            options += ["--host", f"user-service.{NAMESPACE}.svc.cluster.local"]
        if self.overlay == "production":
            options += ["--read-only"]
        environment = os.environ | {"INTERNAL_API_KEY": self.read_api_key()}
        with self.forward_port(namespace, f"service/{service}", port) as address:
            command = (sys.executable, "scripts/smoke_test.py", "--address", address, *options)
            return succeed(run(*command, env=environment))

    def read_api_key(self) -> str:
        encoded = self.kubectl(
            "get", "secret", "microservices-secrets", "--output", "jsonpath={.data.INTERNAL_API_KEY}"
        )
        if encoded.returncode:
            raise StepFailed(f"the API key could not be read: {encoded.stderr.strip()}")
        return base64.b64decode(encoded.stdout).decode()

    @contextmanager
    def forward_port(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """The address of a local port that kubectl forwards to the target's port."""
        log = self.work / "forward"
        command = ["kubectl", "--context", self.context, "--namespace", namespace, "port-forward", target, f":{port}"]
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                for _ in attempts(50, pause_seconds=0.2):
                    if found := re.search(r"^Forwarding from (127\.0\.0\.1:\d+)", log.read_text("utf-8"), re.MULTILINE):
                        yield f"http://{found[1]}"
                        return
                raise StepFailed(f"no port-forward to {target}: {log.read_text('utf-8').strip()}")
            finally:
                process.terminate()

    def roll_back(self, reason: str) -> None:
        """Put the remembered pod templates back, and show what is known of the failure."""
        say(reason)
        pods = self.kubectl("get", "pods", "--selector", "app.kubernetes.io/name=user-service")
        events = self.kubectl("get", "events", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp")
        for line in [*(pods.stdout + pods.stderr).splitlines(), *events.stdout.splitlines()[-10:]]:
            print(line, file=sys.stderr)
        if not self.previous_templates:
            say("there is no previous version to go back to; what was applied stays for inspection")
            return
        for workload, template in self.previous_templates.items():
            patch = self.work / "patch.json"
            change = [{"op": "replace", "path": "/spec/template", "value": template}]
            patch.write_text(json.dumps(change), encoding="utf-8")
            answer = self.kubectl("patch", workload, "--type", "json", "--patch-file", str(patch))
            print(answer.stdout + answer.stderr, end="", file=sys.stderr)
            if answer.returncode:
                say(f"{workload} could not be rolled back")
        say(f"rolled back {' '.join(self.previous_templates)}; the database's schema stays as the migration left it")


def is_newest_revision_ready(state: list[str]) -> bool:
    """Whether the answer to REVISION_STATE is complete and says so."""
    if len(state) != 5:
        return False
    generation, observed_generation, latest_created, latest_ready, ready = state
    return generation == observed_generation and latest_created == latest_ready and ready == "True"


def say(message: str) -> None:
    print(f"deploy-k8s: {message}", file=sys.stderr)


def attempts(count: int, *, pause_seconds: float = POLL_SECONDS) -> Iterator[int]:
    for attempt in range(count):
        yield attempt
        time.sleep(pause_seconds)


STEPS: dict[str, Callable[..., str | None]] = {
    "kubectl": Deployment.run_kubectl_step,
    "render": Deployment.render,
    "set-image": Deployment.set_image,
    "refuse-placeholders": Deployment.refuse_placeholders,
    "require-digest": Deployment.require_digest,
    "require-kinds": Deployment.require_kinds,
    "ensure-secret": Deployment.ensure_secret,
    "wait-migration": Deployment.wait_migration,
    "remember": Deployment.remember,
    "wait-revision": Deployment.wait_revision,
    "wait-replicas": Deployment.wait_replicas,
    "smoke-test": Deployment.smoke_test,
}
