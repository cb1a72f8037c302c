"""The examples for Argo CD and Flux name what is there, and a promotion by digest reaches every workload."""

import shutil
from pathlib import Path
from typing import Any

import charts
import manifests
import pytest
import yaml
from manifests import ROOT, pod_template, render

EXAMPLES = ROOT / "examples/gitops"
ENVIRONMENTS = sorted((EXAMPLES / "environments").iterdir())


def load(name: str) -> dict[str, Any]:
    document = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


@pytest.mark.skipif(not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH")
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda folder: str(folder.name))
def test_the_digest_of_an_environment_reaches_every_workload(environment: Path) -> None:
    documents = render(environment)
    [image] = yaml.safe_load((environment / "kustomization.yaml").read_text())["images"]

    templates = [template for document in documents if (template := pod_template(document))]
    images = {container["image"] for template in templates for container in template["spec"]["containers"]}
    assert images == {f"{image['newName']}@{image['digest']}"}


def test_the_paths_of_the_examples_exist() -> None:
    overlay, chart = load("argo-cd/application-kustomize.yaml"), load("argo-cd/application-helm.yaml")
    flux, release = load("flux/kustomization.yaml"), load("flux/helmrelease.yaml")
    paths = [overlay["spec"]["source"]["path"], flux["spec"]["path"], chart["spec"]["source"]["path"]]
    paths.append(release["spec"]["chart"]["spec"]["chart"])

    assert [path for path in paths if not (ROOT / path).is_dir()] == []
    source = load("flux/source.yaml")["metadata"]["name"]
    assert source == flux["spec"]["sourceRef"]["name"] == release["spec"]["chart"]["spec"]["sourceRef"]["name"]


@pytest.mark.skipif(not shutil.which("helm"), reason="helm is not on PATH; scripts/install-tools brings it")
@pytest.mark.parametrize("name", ["argo-cd/application-helm.yaml", "flux/helmrelease.yaml"])
def test_the_chart_takes_the_values_of_the_examples(name: str, tmp_path: Path) -> None:
    spec = load(name)["spec"]
    values = spec["values"] if "values" in spec else spec["source"]["helm"]["valuesObject"]
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))

    documents = charts.render_chart(tmp_path / "values.yaml")
    templates = [template for document in documents if (template := pod_template(document))]
    for template in templates:
        assert template["spec"]["containers"][0]["image"].endswith(f"@{values['image']['digest']}")
