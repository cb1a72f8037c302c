"""The manifests in a namespace of another name: an overlay sets `namespace`, and nothing else has to change."""

import json
import os
from pathlib import Path
from typing import Any

import manifests
import pytest
import yaml
from manifests import OVERLAYS, ROOT, named, parse, render_text

pytestmark = pytest.mark.skipif(
    not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize"
)
# Names that are not the namespace's: of the Secret, of the group of services, of the store that fills the Secret.
OTHER_MEANINGS = ("microservices-secrets", "app.kubernetes.io/part-of: microservices", "name: microservices\n")


def render_elsewhere(overlay: str, components: list[str], scratch: Path) -> str:
    def relative(folder: str) -> str:
        return os.path.relpath(ROOT / folder, scratch.resolve())

    kustomization: dict[str, Any] = {
        "resources": [relative(overlay)],
        "components": [relative(component) for component in components],
        "namespace": "elsewhere",
    }
    (scratch / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render_text(scratch.resolve())


KNATIVE_COMPONENTS = (["kafka-broker", "event-policy"], ["rabbitmq-broker", "canary"])


@pytest.mark.parametrize(
    ("overlay", "components"),
    [
        (overlay, components)
        for overlay in OVERLAYS
        for components in (KNATIVE_COMPONENTS if overlay.startswith("knative") else [[]])
    ],
)
def test_no_manifest_names_the_former_namespace(overlay: str, components: list[str], tmp_path: Path) -> None:
    components = [f"knative/components/{name}" for name in components]
    text = render_elsewhere(overlay, components, tmp_path)

    assert named(parse(text), "Namespace")["metadata"]["name"] == "elsewhere"
    for meaning in OTHER_MEANINGS:
        text = text.replace(meaning, "")
    assert [
        line for line in text.splitlines() if "microservices" in line.lower().replace("folder: microservices", "")
    ] == []


def test_rules_and_dashboard_find_series_of_every_namespace(tmp_path: Path) -> None:
    """tests/scripts/test_alerts.py tries the alerts in a namespace of another name."""
    documents = parse(render_elsewhere("knative/overlays/production", [], tmp_path))
    dashboard = named(documents, "ConfigMap", "user-service-dashboard")["data"]["user-service.json"]

    assert 'namespace="' not in json.dumps(named(documents, "PrometheusRule")["spec"]).replace("\\", "")
    assert 'namespace=\\"microservices' not in dashboard
