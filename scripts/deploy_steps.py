"""The steps of scripts/deploy.py that render, apply and test; STEPS has all of them by name.

A step returns what it has to say, or raises StepFailed with the reason.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy_rollback import remember
from deploy_run import NAMESPACE, Deployment, StepFailed, attempts, run, succeed
from deploy_waits import wait_migration, wait_replicas, wait_revision, wait_rollout
from placeholders import find_secret_fault, find_unfilled_lines

SECRET_KEYS = ("POSTGRES_USER_PASSWORD", "REDIS_PASSWORD", "ENCRYPTION_KEY", "INTERNAL_API_KEY")
GENERATED_KEYS: dict[str, Callable[[], str]] = {
    "ENCRYPTION_KEY": lambda: "k1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
    "INTERNAL_API_KEY": lambda: secrets.token_hex(32),
}
# The Secret with the key of the smoke test, which only reads where this script creates Secrets: in production.
SMOKE_TEST_SECRET = "user-service-smoke-test"
SMOKE_TEST_SCOPES = ["users:read"]


def run_kubectl_step(deployment: Deployment, *arguments: str) -> str:
    """A step of the plan that is a kubectl command, as it stands there."""
    deployment.has_applied |= "apply" in arguments
    return succeed(run("kubectl", *(str(deployment.rendered) if a == "rendered.yaml" else a for a in arguments)))


def render(deployment: Deployment, folder: str) -> None:
    deployment.overlay_folder = Path(folder)
    render_kustomization(deployment, deployment.overlay_folder)


def render_kustomization(deployment: Deployment, folder: Path) -> None:
    result = run("kubectl", "kustomize", str(folder))
    if result.returncode:
        raise StepFailed(f"{folder} does not render: {result.stderr.strip()}")
    deployment.rendered.write_text(result.stdout, encoding="utf-8")


def set_image(deployment: Deployment, image: str) -> None:
    """Render the overlay again with the service's image replaced in every workload."""
    name, _, digest = image.partition("@")
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    replacement = {"name": "user-service", "newName": path + slash + last, "newTag": tag, "digest": digest}
    kustomization = {
        "resources": [Path(os.path.relpath(deployment.overlay_folder.resolve(), deployment.work)).as_posix()],
        "images": [{key: value for key, value in replacement.items() if value}],
    }
    # Kustomize reads YAML, which JSON is a part of.
    (deployment.work / "kustomization.yaml").write_text(json.dumps(kustomization), encoding="utf-8")
    render_kustomization(deployment, deployment.work)


def rendered_lines(deployment: Deployment) -> list[str]:
    return deployment.rendered.read_text(encoding="utf-8").splitlines()


def refuse_placeholders(deployment: Deployment) -> None:
    if found := find_unfilled_lines(deployment.rendered.read_text(encoding="utf-8")):
        raise StepFailed("\n".join(["these values are placeholders and must be filled in:", *found]))


def require_digest(deployment: Deployment) -> None:
    images = [line for line in rendered_lines(deployment) if re.match(r" *(- )?image: ", line)]
    if found := [line for line in images if "@sha256:" not in line]:
        advice = "production takes an image by digest: --image REGISTRY/NAME:TAG@sha256:..."
        raise StepFailed("\n".join([*found, advice]))


def require_kinds(deployment: Deployment) -> None:
    # The exit status tells also of an API group that is unavailable and not needed here: the kinds decide.
    result = deployment.kubectl("api-resources", "--no-headers")
    known = {line.split()[-1] for line in result.stdout.splitlines() if line.strip()}
    used = {line.split()[1] for line in rendered_lines(deployment) if line.startswith("kind: ")}
    if missing := sorted(used - known):
        raise StepFailed(
            f"{result.stderr}the cluster does not know: {' '.join(missing)}; "
            "install what defines them, or leave their component out of the overlay"
        )


def ensure_secret(deployment: Deployment, name: str) -> str | None:
    if deployment.kubectl("get", "secret", name).returncode == 0:
        return None
    if any(line.startswith("kind: ExternalSecret") for line in rendered_lines(deployment)):
        return succeed(
            deployment.kubectl("wait", "--for=condition=Ready", f"externalsecret/{name}", "--timeout", "120s")
        )
    return create_secret(deployment, name)


def create_secret(deployment: Deployment, name: str) -> str:
    """Create it from the environment. Values go through files: arguments show in the list of processes."""
    folder = deployment.work / "secret"
    folder.mkdir(mode=0o700)
    generated = []
    for key in SECRET_KEYS:
        value = os.environ.get(key, "")
        if not value:
            if key not in GENERATED_KEYS:
                raise StepFailed(f"the Secret {name} is missing, and so is {key} in the environment to create it")
            value = GENERATED_KEYS[key]()
            generated.append(f"generated {key}; keep a copy apart from the backups (docs/backup-and-recovery.md)")
        if fault := find_secret_fault(key, value):
            raise StepFailed(f"the service would refuse the Secret {name}: {fault}")
        write_private(folder / key, value)
    api_keys = os.environ.get("API_KEYS") or make_smoke_test_key(deployment)
    if fault := find_secret_fault("API_KEYS", api_keys):
        raise StepFailed(f"the service would refuse the Secret {name}: {fault}")
    write_private(folder / "API_KEYS", api_keys)
    output = succeed(deployment.kubectl("create", "secret", "generic", name, f"--from-file={folder}"))
    deployment.created_secret = name
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return "\n".join([*generated, output]).rstrip()


def make_smoke_test_key(deployment: Deployment) -> str:
    """API_KEYS with a key that allows what the smoke test does; its Secret has the key, and is created if missing."""
    key = read_smoke_test_key(deployment)
    if not key:
        key = "usk_" + secrets.token_urlsafe(32)
        file = deployment.work / "API_KEY"
        write_private(file, key)
        succeed(deployment.kubectl("create", "secret", "generic", SMOKE_TEST_SECRET, f"--from-file={file}"))
        file.unlink()
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    return json.dumps([{"name": "smoke-test", "sha256": sha256, "scopes": SMOKE_TEST_SCOPES}])


def read_smoke_test_key(deployment: Deployment) -> str:
    """The smoke test's own key; empty where it has none."""
    own = deployment.kubectl("get", "secret", SMOKE_TEST_SECRET, "--output", "jsonpath={.data.API_KEY}")
    return base64.b64decode(own.stdout).decode() if own.returncode == 0 else ""


def write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_bytes(text.encode())


def smoke_test(deployment: Deployment) -> str:
    """Run scripts/smoke_test.py against the service, on Knative through its gateway."""
    namespace, service, port = NAMESPACE, "user-service", 3002
    options = ["--wait", os.environ.get("SMOKE_SECONDS") or "60"]
    if deployment.stack == "knative":
        gateway = os.environ.get("KNATIVE_GATEWAY") or "kourier-system/kourier-internal"
        namespace, _, service = gateway.partition("/")
        port = 80
        options += ["--host", f"user-service.{NAMESPACE}.svc.cluster.local"]
    if deployment.overlay == "production":
        options += ["--read-only"]
    environment = os.environ | {"USER_SERVICE_API_KEY": read_api_key(deployment)}
    with forward_port(deployment, namespace, f"service/{service}", port) as address:
        command = (sys.executable, "scripts/smoke_test.py", "--address", address, *options)
        return succeed(run(*command, env=environment))


def read_api_key(deployment: Deployment) -> str:
    """The smoke test's own key; a key of INTERNAL_API_KEY where it has none."""
    if own := read_smoke_test_key(deployment):
        return own
    encoded = deployment.kubectl(
        "get", "secret", "microservices-secrets", "--output", "jsonpath={.data.INTERNAL_API_KEY}"
    )
    if encoded.returncode:
        raise StepFailed(f"the API key could not be read: {encoded.stderr.strip()}")
    # Several are separated by commas.
    return base64.b64decode(encoded.stdout).decode().partition(",")[0].strip()


@contextmanager
def forward_port(deployment: Deployment, namespace: str, target: str, port: int) -> Iterator[str]:
    """The address of a local port that kubectl forwards to the target's port."""
    log = deployment.work / "forward"
    command = ["kubectl", "--context", deployment.context, "--namespace", namespace, "port-forward", target, f":{port}"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for _ in attempts(50, pause_seconds=0.2):
                if found := re.search(r"^Forwarding from (127\.0\.0\.1:\d+)", log.read_text("utf-8"), re.MULTILINE):
                    yield f"http://{found[1]}"
                    return
            raise StepFailed(f"no port-forward to {target}: {log.read_text('utf-8').strip()}")
        finally:
            process.terminate()


STEPS: dict[str, Callable[..., str | None]] = {
    "kubectl": run_kubectl_step,
    "render": render,
    "set-image": set_image,
    "refuse-placeholders": refuse_placeholders,
    "require-digest": require_digest,
    "require-kinds": require_kinds,
    "ensure-secret": ensure_secret,
    "wait-migration": wait_migration,
    "remember": remember,
    "wait-revision": wait_revision,
    "wait-rollout": wait_rollout,
    "wait-replicas": wait_replicas,
    "smoke-test": smoke_test,
}
