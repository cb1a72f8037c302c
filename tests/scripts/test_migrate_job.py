"""The migration's Job: what ends it at once, and what lets it be applied again and again."""

import manifests
import pytest
from manifests import OVERLAYS, named, render

from user_service.errors import EXIT_CONFIGURATION

pytestmark = pytest.mark.skipif(
    not manifests.renderers(), reason="neither kubectl nor kustomize is on PATH; scripts/install-tools brings kustomize"
)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_refused_settings_fail_a_job_at_once(overlay: str) -> None:
    documents = render(overlay)
    jobs = [named(documents, "Job")["spec"], named(documents, "CronJob")["spec"]["jobTemplate"]["spec"]]

    for job in jobs:
        [container] = job["template"]["spec"]["containers"]
        [rule] = job["podFailurePolicy"]["rules"]
        assert rule["action"] == "FailJob"
        assert rule["onExitCodes"] == {
            "containerName": container["name"],
            "operator": "In",
            "values": [EXIT_CONFIGURATION],
        }
        assert job["template"]["spec"]["restartPolicy"] == "Never"  # without it, the API server refuses the policy


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_argo_cd_and_flux_may_replace_the_migration(overlay: str) -> None:
    job = named(render(overlay), "Job")
    annotations = job["metadata"]["annotations"]

    assert annotations["argocd.argoproj.io/hook"] == "Sync"
    assert annotations["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"
    assert annotations["kustomize.toolkit.fluxcd.io/force"] == "enabled"
    # Flux would create it again, and so run it again, each time that it is gone.
    assert "ttlSecondsAfterFinished" not in job["spec"]
