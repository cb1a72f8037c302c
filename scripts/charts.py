"""Render the Helm chart and compare it with the overlays; for scripts/check-manifests and the tests."""

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from manifests import ROOT, Document, parse, pod_template

CHART = ROOT / "charts" / "user-service"
VALUE_FILES = sorted((CHART / "ci").glob("*.yaml"))
# The value files that describe an overlay of kustomize
MATCHING_OVERLAYS = {
    f"{mode}-{overlay}": f"{folder}/overlays/{overlay}"
    for mode, folder in (("deployment", "k8s-fallback"), ("knative", "knative"))
    for overlay in ("dev", "production")
}
HELM_LABELS = (
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
)
KUBERNETES = "v1.30.0"
Key = tuple[str, str, str]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("helm")
    if program is None:
        raise RuntimeError("helm is not on PATH; scripts/install-tools brings it")
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def template(*values: Path | str, release: str = "user-service", namespace: str = "microservices") -> str:
    """What `helm template` prints for value files (paths) and single values (`name=value`)."""
    options = [
        text for value in values for text in (("--set", value) if isinstance(value, str) else ("-f", str(value)))
    ]
    result = helm("template", release, str(CHART), "-n", namespace, "--kube-version", KUBERNETES, *options)
    if result.returncode:
        raise ValueError(result.stderr.strip())
    return result.stdout


def render_chart(
    *values: Path | str, release: str = "user-service", namespace: str = "microservices"
) -> list[Document]:
    return parse(template(*values, release=release, namespace=namespace))


def compare(values: Path, overlay: list[Document]) -> list[str]:
    """Where the chart with a value file and an overlay describe different objects, apart from what must differ."""
    chart = index(without_what_helm_adds(render_chart(values)))
    kustomize = index(without_what_kustomize_adds(overlay))
    found = [f"{name(key)} is in the overlay, and not in the chart: add a template" for key in kustomize.keys() - chart]
    found += [f"{name(key)} is in the chart, and not in the overlay" for key in chart.keys() - kustomize]
    for key in sorted(chart.keys() & kustomize):
        found += [f"{name(key)}: {line}" for line in differences(kustomize[key], chart[key])]
    return found


def index(documents: list[Document]) -> dict[Key, Document]:
    return {(d["apiVersion"], d["kind"], d["metadata"]["name"]): d for d in documents}


def name(key: Key) -> str:
    return f"{key[1]}/{key[2]}"


def differences(expected: Any, actual: Any, place: str = "") -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        for field in sorted(expected.keys() | actual.keys()):
            inside = f"{place}.{field}" if place else field
            if field not in actual:
                yield f"{inside}: only in the overlay ({expected[field]!r}){remedy(place)}"
            elif field not in expected:
                yield f"{inside}: only in the chart ({actual[field]!r})"
            else:
                yield from differences(expected[field], actual[field], inside)
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for position, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(one, other, f"{place}[{position}]")
    elif expected != actual:
        yield f"{place}: {expected!r} in the overlay, {actual!r} in the chart{remedy(place)}"


def remedy(place: str) -> str:
    """What to do where a setting of the clusters' ConfigMap was forgotten."""
    return "; add it to `settings` in charts/user-service/values.yaml" if place.partition(".")[0] == "data" else ""


def without_what_helm_adds(documents: list[Document]) -> list[Document]:
    """Helm's labels, the checksum that rolls pods, what hooks need, and the objects of `helm test`."""
    kept = []
    for document in documents:
        document = copy.deepcopy(document)
        metadata = document["metadata"]
        annotations = metadata.get("annotations", {})
        hook = annotations.get("helm.sh/hook", "")
        # The migration's own ConfigMap, account and policies are those of the release once more, before it exists.
        if hook == "test" or (hook and document["kind"] not in {"Job", "ExternalSecret"}):
            continue
        for label in HELM_LABELS:
            del metadata["labels"][label]
        metadata["annotations"] = {
            name: value for name, value in annotations.items() if not name.startswith("helm.sh/")
        }
        if (pod := pod_template(document)) and "annotations" in pod["metadata"]:
            pod["metadata"]["annotations"].pop("checksum/config", None)
        if (document["kind"], metadata["name"]) == ("Job", "user-service-migrate"):
            spec = document["spec"]["template"]["spec"]
            assert spec["serviceAccountName"] == spec["containers"][0]["envFrom"][0]["configMapRef"]["name"]
            spec["serviceAccountName"] = "user-service"
            spec["containers"][0]["envFrom"][0]["configMapRef"]["name"] = "user-service-config"
        kept.append(tidy(document))
    return kept


def without_what_kustomize_adds(documents: list[Document]) -> list[Document]:
    """The hash in the name of the ConfigMap, the Namespace (Helm stores its release there, so it exists before the
    chart), and the annotations by which Argo CD and Flux replace the Job of a kustomization."""
    text = re.sub(r"\buser-service-config-[a-z0-9]{10}\b", "user-service-config", yaml.safe_dump_all(documents))
    kept = [document for document in parse(text) if document["kind"] != "Namespace"]
    for document in kept:
        annotations = document["metadata"].get("annotations", {})
        for annotation in [a for a in annotations if a.startswith(("argocd.argoproj.io/", "kustomize.toolkit."))]:
            del annotations[annotation]
        tidy(document)
    return kept


def tidy(document: Document) -> Document:
    """The document without empty annotations."""
    if not document["metadata"].get("annotations", True):
        del document["metadata"]["annotations"]
    return document
