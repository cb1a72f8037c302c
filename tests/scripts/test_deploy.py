"""What the deploy script does against a recorded cluster."""

import base64
import json
import signal
import time
from pathlib import Path

import pytest
from deploy import make_plan
from deploy_waits import is_newest_revision_ready
from manifests import renderers

from support.process import ServiceProcess
from support.recorded_cluster import KINDS, Cluster
from support.settings import API_KEY
from user_service.values.api_keys import hash_key, parse_api_keys
from user_service.values.placeholders import PUBLISHED_KEYS

IMAGE = "registry.test/team/user-service:1.2.3@sha256:" + "0123456789abcdef" * 4

SEVERAL, OWN, WRONG = (base64.b64encode(key.encode()).decode() for key in (f"{API_KEY},another", API_KEY, "wrong"))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    if "kubectl" not in renderers():
        pytest.skip("the deploy script needs kubectl on PATH")
    return Cluster(tmp_path)


def plan(stack: str, overlay: str, image: str) -> list[str]:
    return [" ".join(step) for step in make_plan(stack, overlay, image, "test")]


@pytest.mark.parametrize(("serves", "stack"), [("serving.knative.dev/v1", "knative"), ("batch/v1", "k8s-fallback")])
def test_auto_looks_for_the_api_of_knative(cluster: Cluster, serves: str, stack: str) -> None:
    result = cluster.deploy("--dry-run", SERVES=serves)

    assert result.stdout.splitlines()[0] == f"render {stack}/overlays/dev"


def test_production_refuses_an_image_without_a_digest(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "fallback", "--overlay", "production", "--image", "registry.test/user-service:1")

    assert result.returncode == 1
    assert "by digest" in result.stderr
    assert not cluster.asked("apply")


def test_production_refuses_placeholders(cluster: Cluster) -> None:
    image = "registry.test/user-service:latest@" + IMAGE.partition("@")[2]
    result = cluster.deploy("--stack", "knative", "--overlay", "production", "--image", image)

    assert result.returncode == 1
    assert "must be filled in" in result.stderr
    assert not cluster.asked("apply")


def test_a_kind_that_the_cluster_lacks_is_named(cluster: Cluster) -> None:
    kinds = KINDS.replace("VerticalPodAutoscaler ", "")
    result = cluster.deploy("--stack", "fallback", "--overlay", "production", "--image", IMAGE, KINDS=kinds)

    assert result.returncode == 1
    assert "VerticalPodAutoscaler" in result.stderr
    assert not cluster.asked("apply")


def test_a_missing_secret_is_made_without_showing_it(cluster: Cluster) -> None:
    passwords = {"POSTGRES_USER_PASSWORD": "kDn2-postgres-94x", "REDIS_PASSWORD": "kDn2-redis-94x"}
    arguments = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
    result = cluster.deploy(*arguments, SECRET_IS_MISSING="1", **passwords)

    keys = Path(f"{cluster.calls_file}.secret").read_text().split()
    assert sorted(keys) == [
        "API_KEYS",
        "ENCRYPTION_KEY",
        "INTERNAL_API_KEY",
        "POSTGRES_USER_PASSWORD",
        "REDIS_PASSWORD",
    ]
    assert not any(password in call for call in cluster.calls for password in passwords.values())
    assert not any(password in result.stdout + result.stderr for password in passwords.values())
    assert "generated ENCRYPTION_KEY; keep a copy" in result.stdout


def test_a_new_secret_accepts_a_key_for_the_smoke_test_alone(cluster: Cluster) -> None:
    passwords = {"POSTGRES_USER_PASSWORD": "kDn2-postgres-94x", "REDIS_PASSWORD": "kDn2-redis-94x"}
    arguments = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
    result = cluster.deploy(*arguments, SECRET_IS_MISSING="1", **passwords)

    key = Path(f"{cluster.calls_file}.smoke_test_key").read_text()
    (accepted,) = parse_api_keys(Path(f"{cluster.calls_file}.api_keys").read_text())
    assert (accepted.name, accepted.digest, accepted.scopes) == ("smoke-test", hash_key(key.encode()), {"users:read"})
    assert key not in result.stdout + result.stderr + " ".join(cluster.calls)


def test_api_keys_of_the_environment_are_taken_and_a_published_one_is_not(cluster: Cluster) -> None:
    passwords = {"POSTGRES_USER_PASSWORD": "kDn2-postgres-94x", "REDIS_PASSWORD": "kDn2-redis-94x"}
    arguments = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
    published = json.dumps([{"name": "smoke-test", "sha256": min(PUBLISHED_KEYS), "scopes": ["users:read"]}])
    own = published.replace(min(PUBLISHED_KEYS), "0f" * 32)
    refused = cluster.deploy(*arguments, SECRET_IS_MISSING="1", API_KEYS=published, **passwords)
    made_none = not cluster.asked("create", "secret")
    cluster.deploy(*arguments, SECRET_IS_MISSING="1", API_KEYS=own, **passwords)

    assert made_none
    assert "a key is published with the manifests" in refused.stderr
    assert Path(f"{cluster.calls_file}.api_keys").read_text() == own


@pytest.mark.parametrize("value", ["", "changeme"])
def test_a_secret_is_not_made_of_nothing_or_of_a_placeholder(cluster: Cluster, value: str) -> None:
    arguments = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
    result = cluster.deploy(*arguments, SECRET_IS_MISSING="1", POSTGRES_USER_PASSWORD="x" * 20, REDIS_PASSWORD=value)

    assert result.returncode == 1
    assert "REDIS_PASSWORD" in result.stderr
    assert not cluster.asked("create", "secret")


def test_a_failed_migration_leaves_the_running_version_alone(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "fallback", MIGRATION="Failed")

    assert result.returncode == 1
    assert "migration did not finish" in result.stderr
    assert not cluster.asked("apply", "component!=setup")
    assert not cluster.asked("patch")


def test_a_failed_rollout_brings_the_previous_template_back(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "fallback", FAIL_ON="rollout status deployment/user-service-deployment")

    assert result.returncode == 1
    assert "failed at: wait-rollout user-service-deployment" in result.stderr
    assert "rolled back cronjob/user-service-prune deployment/user-service-deployment;" in result.stderr
    [patch] = json.loads(Path(f"{cluster.calls_file}.patch").read_text())
    assert patch["path"] == "/spec/template"
    assert patch["value"]["spec"]["containers"] == [{"image": "former"}]


def test_a_failed_first_installation_says_that_nothing_can_be_put_back(cluster: Cluster) -> None:
    result = cluster.deploy("--stack", "knative", FORMER="", FAIL_ON="component!=setup")

    assert result.returncode == 1
    assert "no previous version to go back to; what was applied stays" in result.stderr
    assert not cluster.asked("patch")


def test_a_service_that_fails_the_smoke_test_is_rolled_back(cluster: Cluster) -> None:
    """Nothing listens on the port that the cluster forwards, so the smoke test fails after all steps succeeded."""
    result = cluster.deploy("--stack", "knative")

    assert result.returncode == 1
    assert "FAIL it is ready" in result.stderr
    assert "services.serving.knative.dev/user-service services" in result.stderr.partition("rolled back ")[2]
    kubectl_steps = [s.removeprefix("kubectl ") for s in plan("knative", "dev", "") if s.startswith("kubectl")]
    first = ["apply", "rollout", "rollout", "delete", "apply"]
    assert [step.split()[2] for step in kubectl_steps] == [*first, "apply", "wait", "wait", "apply"]
    assert all(cluster.asked(*step.replace("rendered.yaml", "").split()) for step in kubectl_steps)


@pytest.mark.parametrize("keys", [{"API_KEY": SEVERAL}, {"API_KEY": WRONG, "SMOKE_TEST_KEY": OWN}], ids=len)
@pytest.mark.parametrize("overlay", ["dev", "production"])
@pytest.mark.parametrize("stack", ["knative", "fallback"])
def test_a_deployment_ends_with_the_smoke_test(
    cluster: Cluster, service_process: ServiceProcess, stack: str, overlay: str, keys: dict[str, str]
) -> None:
    port = service_process.url.rpartition(":")[2]
    recorded = {"FORWARDED": port, "SMOKE_SECONDS": "10", **keys}
    arguments = ("--stack", stack, "--overlay", overlay, "--image", IMAGE)
    result = cluster.deploy(*arguments, KNATIVE_GATEWAY="istio-system/gateway", **recorded)

    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == f"deployed: {stack}/{overlay} on test"
    assert [line.removeprefix("--- ") for line in lines if line.startswith("--- ")] == plan(stack, overlay, IMAGE)
    assert "ok   users can be listed" in lines
    assert ("ok   a user is created" in lines) == (overlay == "dev")
    assert not cluster.asked("patch")
    assert not cluster.asked("create", "secret")
    if stack == "knative":
        assert cluster.asked("--namespace istio-system port-forward service/gateway :80")
    else:
        assert cluster.asked("--namespace microservices port-forward service/user-service :3002")


def test_the_image_is_replaced_in_what_is_applied(cluster: Cluster) -> None:
    cluster.deploy("--stack", "fallback", "--image", "registry.test/team/user-service:1.2.3")

    applied = Path(f"{cluster.calls_file}.applied").read_text()
    images = {line.split()[-1] for line in applied.splitlines() if "image: " in line and "user-service" in line}
    assert images == {"registry.test/team/user-service:1.2.3"}


def test_a_secret_of_a_store_is_waited_for(cluster: Cluster) -> None:
    external = "---\napiVersion: external-secrets.io/v1\nkind: ExternalSecret\n"
    recorded = {"MORE_MANIFESTS": external, "KINDS": f"{KINDS} ExternalSecret", "SECRET_IS_MISSING": "1"}
    cluster.deploy("--stack", "fallback", "--overlay", "production", "--image", IMAGE, **recorded)

    assert cluster.asked("wait --for=condition=Ready externalsecret/microservices-secrets --timeout 120s")
    assert not cluster.asked("create", "secret")


def test_an_interrupted_deployment_leaves_no_secret_behind(cluster: Cluster) -> None:
    passwords = {"POSTGRES_USER_PASSWORD": "kDn2-postgres-94x", "REDIS_PASSWORD": "kDn2-redis-94x"}
    arguments = ("--stack", "fallback", "--overlay", "production", "--image", IMAGE)
    process = cluster.start(*arguments, SECRET_IS_MISSING="1", HANG_ON="create secret", **passwords)
    deadline = time.monotonic() + 60
    while not cluster.asked("create", "secret") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(cluster.temporary_files.rglob("REDIS_PASSWORD"))

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert list(cluster.temporary_files.iterdir()) == []


def test_temporary_files_are_removed_after_a_failure(cluster: Cluster) -> None:
    assert cluster.deploy("--stack", "fallback", FAIL_ON="component!=setup").returncode == 1

    assert list(cluster.temporary_files.iterdir()) == []


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        ("2 2 new new True", True),
        ("3 2 new new True", False),
        ("2 2 new former True", False),
        ("2 2 new new Unknown", False),
        ("2 2 new True", False),
        ("", False),
    ],
)
def test_only_the_newest_revision_counts_as_ready(state: str, ready: bool) -> None:
    assert is_newest_revision_ready(state.split()) == ready
