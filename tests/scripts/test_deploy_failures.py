"""What the deploy script says and puts back when a deployment fails, against a recorded cluster."""

import json
from pathlib import Path
from typing import Any

import pytest
from deploy_pods import find_troubles
from manifests import renderers

from support.recorded_cluster import Cluster
from support.settings import API_KEY, ENCRYPTION_KEY
from user_service.errors import ConfigurationError
from user_service.settings import Settings
from user_service.values.placeholders import PLACEHOLDERS

IMAGE = "registry.test/team/user-service:1.2.3@sha256:" + "0123456789abcdef" * 4
PRODUCTION = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
PASSWORDS = {"POSTGRES_USER_PASSWORD": "kDn2-postgres-94x", "REDIS_PASSWORD": "kDn2-redis-94x"}
KEPT = {"ENCRYPTION_KEY": ENCRYPTION_KEY, "INTERNAL_API_KEY": API_KEY}
REFUSED_SECRETS = [
    *(("REDIS_PASSWORD", f"x7-{word.upper()}-9q") for word in sorted(PLACEHOLDERS)),
    ("POSTGRES_USER_PASSWORD", "the-Password-of-users"),
    ("INTERNAL_API_KEY", "too-short"),
    ("INTERNAL_API_KEY", f"{API_KEY},aaaaaaaaaaaaaaaaaaaa"),
    ("ENCRYPTION_KEY", "development-only:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ("ENCRYPTION_KEY", "k1:MDEyMzQ1Njc4OWFiY2RlZg=="),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    if "kubectl" not in renderers():
        pytest.skip("the deploy script needs kubectl on PATH")
    return Cluster(tmp_path)


def pod(name: str, container: str, *, exit_code: int | None = None, waiting: str = "", restarted: bool = True) -> Any:
    """A pod as the API server gives it, whose container has ended, waits, or both."""
    ended = {"terminated": {"exitCode": exit_code, "reason": "Error"}} if exit_code is not None else {}
    now = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    states = {"state": now, "lastState": ended} if restarted else {"state": ended or now}
    status = {"containerStatuses": [{"name": container, **states}]}
    return {"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status}


def pods(*items: Any) -> str:
    return json.dumps({"items": items})


CRASHING = pods(pod("new-1", "user-service", exit_code=1, waiting="CrashLoopBackOff"))


@pytest.mark.parametrize(("name", "value"), REFUSED_SECRETS)
def test_a_secret_is_not_made_of_what_the_service_refuses(cluster: Cluster, name: str, value: str) -> None:
    environment = {**PASSWORDS, **KEPT, name: value}
    with pytest.raises(ConfigurationError, match=name):
        Settings.load({**environment, "APP_ENV": "production", "POSTGRES_HOST": "postgres-user", "REDIS_HOST": "redis"})

    result = cluster.deploy(*PRODUCTION, SECRET_IS_MISSING="1", **environment)

    assert result.returncode == 1
    assert f"the service would refuse the Secret microservices-secrets: {name}" in result.stderr
    assert value not in result.stdout + result.stderr
    assert not cluster.asked("create", "secret")


def test_a_secret_whose_settings_the_migration_refuses_is_not_kept(cluster: Cluster) -> None:
    refused = pods(pod("migrate-1", "migrate", exit_code=2, restarted=False))
    recorded = {"MIGRATION": "Failed", "PODS": refused, "LOG": "JWT_ISSUER: set all three", "SECRET_IS_MISSING": "1"}

    result = cluster.deploy(*PRODUCTION, **recorded, **PASSWORDS)

    assert result.returncode == 1
    assert "JWT_ISSUER: set all three" in result.stderr
    assert cluster.asked("delete secret microservices-secrets")
    assert "the Secret microservices-secrets is not kept" in result.stderr


@pytest.mark.parametrize(("missing", "exit_code"), [("0", 2), ("1", 1)])
def test_a_secret_is_kept_that_was_there_or_was_not_refused(cluster: Cluster, missing: str, exit_code: int) -> None:
    failed = pods(pod("migrate-1", "migrate", exit_code=exit_code, restarted=False))

    result = cluster.deploy(*PRODUCTION, MIGRATION="Failed", PODS=failed, SECRET_IS_MISSING=missing, **PASSWORDS)

    assert result.returncode == 1
    assert not cluster.asked("delete", "secret")


def test_the_log_of_the_first_failed_pod_comes_while_the_migration_is_tried_again(cluster: Cluster) -> None:
    """The recorded migration completes once its log was read."""
    first, second = (pod(f"migrate-{n}", "migrate", exit_code=1, restarted=False) for n in (1, 2))
    recorded = {
        "MIGRATION": "",
        "COMPLETE_AFTER_LOG": "1",
        "PODS": pods(first, second),
        "LOG": "no route to PostgreSQL",
    }

    result = cluster.deploy("--stack", "fallback", **recorded)

    assert (
        "container migrate of pod migrate-1: exited with 1 (Error); its log:\nno route to PostgreSQL" in result.stderr
    )
    assert cluster.asked("component!=migrate")
    assert next(call.split()[5] for call in cluster.calls if " logs " in call) == "migrate-1"


def test_a_migration_that_cannot_start_is_said(cluster: Cluster) -> None:
    waiting = pods(pod("migrate-1", "migrate", waiting="ImagePullBackOff"))

    result = cluster.deploy("--stack", "fallback", MIGRATION="Failed", PODS=waiting)

    assert "container migrate of pod migrate-1: ImagePullBackOff" in result.stderr


def test_a_revision_that_crash_loops_is_not_waited_for(cluster: Cluster) -> None:
    recorded = {"REVISION": "2 2 new former Unknown", "PODS": CRASHING, "LOG": "KeyError: 'x'"}

    result = cluster.deploy("--stack", "knative", **recorded)

    assert result.returncode == 1
    assert "exited with 1 (Error), CrashLoopBackOff; it will not become ready" in result.stderr
    assert "KeyError: 'x'" in result.stderr
    assert cluster.asked("get pods", "serving.knative.dev/revision=new")
    assert cluster.asked("logs new-1", "--previous")
    assert len([call for call in cluster.calls if "get services.serving.knative.dev" in call and "status" in call]) == 1


def test_a_revision_of_the_previous_generation_is_not_looked_at(cluster: Cluster) -> None:
    """Its pods may crash, which is what the deployment is to end."""
    recorded = {"REVISION": "3 2 former former True", "PODS": CRASHING, "HANG_ON": "get pods"}
    process = cluster.start("--stack", "knative", **recorded)
    try:
        while len([call for call in cluster.calls if "observedGeneration" in call]) < 2:
            assert process.poll() is None
        assert not cluster.asked("serving.knative.dev/revision")
    finally:
        process.kill()
        process.communicate()


def test_a_deployment_that_crash_loops_is_not_waited_for(cluster: Cluster) -> None:
    def replica_set(revision: int) -> dict[str, Any]:
        metadata = {
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "labels": {"pod-template-hash": f"hash{revision}"},
            "ownerReferences": [{"name": "user-service-deployment"}],
        }
        return {"metadata": metadata}

    sets = json.dumps({"items": [replica_set(number) for number in (9, 10, 8)]})
    recorded = {
        "ROLLOUT": "Waiting for 1 pods to be updated",
        "REPLICA_SETS": sets,
        "PODS": CRASHING,
        "LOG": "KeyError",
    }

    result = cluster.deploy("--stack", "fallback", **recorded)

    assert result.returncode == 1
    assert "it will not become ready" in result.stderr
    assert cluster.asked("get pods", "pod-template-hash=hash10")
    assert len([call for call in cluster.calls if "--watch=false" in call]) == 1


def test_a_rollback_restores_every_workload_of_the_service(cluster: Cluster) -> None:
    former = json.dumps({"spec": "former"})

    result = cluster.deploy("--stack", "knative", FORMER=former, REVISION="2 2 new former Unknown", PODS=CRASHING)

    fields = {"cronjob": "jobTemplate", "jobsinks.sinks.knative.dev": "job", "services.serving.knative.dev": "template"}
    for kind, field in fields.items():
        [change] = json.loads(Path(f"{cluster.calls_file}.patch.{kind}").read_text())
        assert change == {"op": "replace", "path": f"/spec/{field}", "value": {"spec": "former"}}
        assert f"{kind}/user-service" in result.stderr.partition("rolled back ")[2]


def test_what_could_not_be_restored_is_not_among_what_was(cluster: Cluster) -> None:
    result = cluster.deploy(
        "--stack", "knative", REVISION="2 2 new former Unknown", PODS=CRASHING, FAIL_ON="patch cronjob"
    )

    assert "cronjob/user-service-prune could not be rolled back" in result.stderr
    assert "cronjob" not in result.stderr.partition("deploy-k8s: rolled back ")[2]


def test_a_failed_smoke_test_shows_the_log_of_a_container_that_crashed(cluster: Cluster) -> None:
    crashed = pods(pod("new-1", "user-service", exit_code=137))

    result = cluster.deploy("--stack", "fallback", PODS=crashed, LOG="MemoryError")

    assert result.returncode == 1
    assert "pod new-1: exited with 137 (Error); its log:\nMemoryError" in result.stderr


def test_a_refusal_before_anything_was_applied_says_so(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "fallback", "--overlay", "production", "--image", "registry.test/user-service:1")

    assert result.returncode == 1
    assert result.stderr.endswith("deploy-k8s: nothing was applied\n")
    assert "stays" not in result.stderr
    assert not cluster.asked("get pods")


@pytest.mark.parametrize(
    "recorded",
    [
        pytest.param({"MIGRATION": "Failed"}, id="a failed migration"),
        pytest.param({"FAIL_ON": "statefulset/postgres-user"}, id="a database that does not start"),
    ],
)
def test_a_failure_before_the_service_says_that_it_was_not_changed(cluster: Cluster, recorded: dict[str, str]) -> None:
    result = cluster.deploy("--stack", "fallback", **recorded)

    assert result.returncode == 1
    assert result.stderr.endswith("the service was not changed; the settings and policies that were applied stay\n")


@pytest.mark.parametrize(
    ("status", "reasons"),
    [
        (pod("p", "c"), []),
        (pod("p", "c", waiting="ContainerCreating"), []),
        (pod("p", "c", exit_code=0), []),
        (pod("p", "c", exit_code=1), ["exited with 1 (Error)"]),
        (pod("p", "c", waiting="InvalidImageName"), ["InvalidImageName"]),
        ({"metadata": {"name": "p"}, "status": {"phase": "Pending"}}, []),
    ],
)
def test_troubles_of_a_pod(status: Any, reasons: list[str]) -> None:
    assert [trouble.reason for trouble in find_troubles([status])] == reasons
