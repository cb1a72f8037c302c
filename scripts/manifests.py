"""Render the overlays and read what they hold; for scripts/check-manifests and the tests."""

import copy
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
STACKS = {"fallback": "k8s-fallback", "knative": "knative"}
OVERLAYS = [f"{folder}/overlays/{name}" for folder in STACKS.values() for name in ("dev", "production")]
Document = dict[str, Any]


def renderers() -> dict[str, list[str]]:
    """The programs on PATH that render a kustomization, by name."""
    known = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    return {name: command for name, command in known.items() if shutil.which(name)}


def render_text(folder: str | Path, renderer: str | None = None) -> str:
    """The YAML of a kustomization, given as a folder relative to the repository or absolute."""
    available = renderers()
    if not available:
        raise RuntimeError("neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize")
    command = available[renderer] if renderer else next(iter(available.values()))
    result = subprocess.run([*command, str(ROOT / folder)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{folder} does not render:\n{result.stderr[-2000:]}")
    return result.stdout


def parse(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def render(folder: str | Path) -> list[Document]:
    return parse(render_text(folder))


def render_with(overlay: str, components: list[str], scratch: Path) -> list[Document]:
    """An overlay with components on top, written as a kustomization in `scratch`."""

    def relative(folder: str) -> str:
        return os.path.relpath(ROOT / folder, scratch.resolve())

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [relative(overlay)],
        "components": [relative(component) for component in components],
    }
    (scratch / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(scratch.resolve())


def is_knative_service(document: Document) -> bool:
    return document["kind"] == "Service" and document["apiVersion"].startswith("serving.knative.dev/")


def pod_template(document: Document) -> Document | None:
    """The pod template of a workload, of whatever kind; None for everything else."""
    spec = document.get("spec") or {}
    if document["kind"] == "JobSink":
        return dict(spec["job"]["spec"]["template"])
    if document["kind"] == "CronJob":
        return dict(spec["jobTemplate"]["spec"]["template"])
    if document["kind"] in {"Deployment", "StatefulSet", "Job"} or is_knative_service(document):
        return dict(spec["template"])
    return None


def named(documents: list[Document], kind: str, name: str | None = None) -> Document:
    """The one document of a kind (and name); a KeyError that says so if there is not exactly one."""
    found = [
        document
        for document in documents
        if document["kind"] == kind
        and not is_knative_service(document)
        and name in (None, document["metadata"]["name"])
    ]
    if len(found) != 1:
        raise KeyError(f"{len(found)} documents of kind {kind} named {name or 'anything'}")
    return found[0]


def project(documents: list[Document]) -> list[Document]:
    """The documents with each Knative Service and JobSink as the workload that Knative makes of it.

    Linters know neither kind. The pod's security context, which Knative refuses, is filled in from the
    container's, so that they judge what was written and not what cannot be written.
    """
    return [projected(document) for document in documents]


def projected(document: Document) -> Document:
    template = pod_template(document)
    if template is None or document["kind"] in {"Deployment", "StatefulSet", "Job", "CronJob"}:
        return document
    template = copy.deepcopy(template)
    metadata = copy.deepcopy(document["metadata"])
    if document["kind"] == "JobSink":
        job = copy.deepcopy(document["spec"]["job"]["spec"])
        job["template"] = template
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job}
    pod = template["spec"]
    labels = template["metadata"]["labels"] | {"serving.knative.dev/service": metadata["name"]}
    template["metadata"]["labels"] = labels
    for field in ("containerConcurrency", "timeoutSeconds"):
        pod.pop(field, None)
    container = pod["containers"][0]
    pod["securityContext"] = copy.deepcopy(container["securityContext"]) | {"fsGroup": 1001}
    for field in ("capabilities", "readOnlyRootFilesystem", "allowPrivilegeEscalation"):
        pod["securityContext"].pop(field, None)
    selector = {"matchLabels": {"serving.knative.dev/service": metadata["name"]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"selector": selector, "template": template},
    }
