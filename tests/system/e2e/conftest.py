import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from support.cluster import CALLERS, Cluster


def missing() -> str | None:
    """Why the end-to-end tests cannot run here, or None."""
    if not os.environ.get("KUBECONFIG"):
        return "end to end: KUBECONFIG names no cluster"
    if not shutil.which("kubectl"):
        return "end to end: kubectl is not on PATH"
    response = subprocess.run(
        ["kubectl", "version", "--request-timeout=10s"], capture_output=True, text=True, check=False
    )
    return f"end to end: the cluster does not answer: {response.stderr.strip()[:200]}" if response.returncode else None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that scripts/deploy-k8s.sh deployed the dev overlay on."""
    if reason := missing():
        pytest.skip(reason)
    cluster = Cluster()
    cluster.prepare_callers()
    yield cluster
    cluster.kubectl("delete", "namespace", CALLERS, "--wait=false", namespace=None)


@pytest.fixture
def knative(cluster: Cluster) -> Cluster:
    if not cluster.knative:
        pytest.skip("end to end: this cluster runs the plain stack")
    return cluster


@pytest.fixture
def plain(cluster: Cluster) -> Cluster:
    if cluster.knative:
        pytest.skip("end to end: this cluster runs Knative")
    return cluster
