"""The service on whatever cluster KUBECONFIG names, deployed from an overlay `dev`. Run one after another: -n 0."""

import json
import uuid
from typing import Any

from support.cluster import NAMESPACE, Cluster
from support.waiting import wait_until


def new_user() -> dict[str, str]:
    name = f"e2e-{uuid.uuid4().hex}"
    return {"external_id": name, "email": f"{name}@example.org"}


def find(user: dict[str, str]) -> dict[str, Any]:
    return {"path": f"/api/v1/users?external_id={user['external_id']}", "headers": {"Cache-Control": "no-cache"}}


def test_a_user_is_created_read_changed_and_deleted(cluster: Cluster) -> None:
    user = new_user()
    created, found = cluster.call({"method": "POST", "path": "/api/v1/users", "body": user}, find(user))
    assert created["status"] == 201
    assert [one["id"] for one in found["body"]["items"]] == [created["body"]["id"]]

    path = f"/api/v1/users/{created['body']['id']}"
    changed, deleted, gone = cluster.call(
        {"method": "PATCH", "path": path, "body": {"given_name": "Ada"}},
        {"method": "DELETE", "path": path},
        {"path": path},
    )
    assert (changed["status"], changed["body"]["given_name"]) == (200, "Ada")
    assert (deleted["status"], gone["status"]) == (204, 404)


def test_a_request_without_a_key_is_refused(cluster: Cluster) -> None:
    [refused] = cluster.call({"path": "/api/v1/users", "headers": {"X-API-Key": "not-a-key-of-this-service"}})

    assert refused["status"] == 401


def test_a_rolling_update_costs_no_request(cluster: Cluster) -> None:
    host, _, port = cluster.address.removeprefix("http://").partition(":")
    load = {"host": host, "port": int(port or 80), "seconds": 90, "prefix": f"roll-{uuid.uuid4().hex[:8]}"}
    caller = cluster.start_caller({"load": load})
    before = {pod["metadata"]["name"] for pod in cluster.pods()}
    change = {"spec": {"template": {"metadata": {"annotations": {"e2e/restarted": uuid.uuid4().hex}}}}}
    target = "services.serving.knative.dev/user-service" if cluster.knative else "deployment/user-service-deployment"
    cluster.kubectl("patch", target, "--type", "merge", "--patch", json.dumps(change))

    result = cluster.wait_for_result(caller, seconds=300)
    assert result["failures"] == []
    assert len(result["acknowledged"]) > 100
    wait_until(
        lambda: before.isdisjoint(p["metadata"]["name"] for p in cluster.pods()),
        "new pods",
        seconds=180,
        pause_seconds=1,
    )
    last = {"external_id": result["acknowledged"][-1]}
    [found] = cluster.call(find(last))
    assert len(found["body"]["items"]) == 1


def test_postgres_and_redis_may_restart(cluster: Cluster) -> None:
    user = new_user()
    [created] = cluster.call({"method": "POST", "path": "/api/v1/users", "body": user})
    path = f"/api/v1/users/{created['body']['id']}"
    restarts = count_restarts(cluster)

    cluster.kubectl("delete", "pod", "--selector", "app=redis", "--wait=false")
    [without_redis] = cluster.call({"path": path})
    assert without_redis["status"] == 200
    cluster.kubectl("delete", "pod", "--selector", "app=postgres-user")
    cluster.kubectl("rollout", "status", "statefulset/postgres-user", "--timeout", "180s")
    fresh = {"path": path, "headers": {"Cache-Control": "no-cache"}}
    wait_until(
        lambda: cluster.call(dict(fresh))[0]["status"] == 200,
        "the database through the service",
        seconds=120,
        pause_seconds=1,
    )
    assert count_restarts(cluster) <= restarts


def count_restarts(cluster: Cluster) -> int:
    return sum(status["restartCount"] for pod in cluster.pods() for status in pod["status"]["containerStatuses"])


def test_a_pod_without_the_client_label_does_not_get_through(plain: Cluster) -> None:
    allowed = plain.call({"path": "/api/health/live"})
    refused = plain.call({"path": "/api/health/live"}, allowed=False)

    assert [response["status"] for response in allowed] == [200]
    assert [response["status"] for response in refused] == [0]


def test_a_drain_takes_one_pod_at_a_time(plain: Cluster) -> None:
    plain.kubectl("scale", "deployment/user-service-deployment", "--replicas", "3")
    try:
        plain.kubectl("rollout", "status", "deployment/user-service-deployment", "--timeout", "180s")
        wait_until(lambda: allowed_disruptions(plain) == 1, "the disruption budget", seconds=60)
        first, second, *_ = [pod["metadata"]["name"] for pod in plain.pods()]

        assert evict(plain, first)
        assert not evict(plain, second)
    finally:
        plain.kubectl("scale", "deployment/user-service-deployment", "--replicas", "1")


def allowed_disruptions(cluster: Cluster) -> int:
    return int(cluster.get("poddisruptionbudget", "user-service-pdb")["status"]["disruptionsAllowed"])


def evict(cluster: Cluster, pod: str) -> bool:
    """Whether the API server takes the eviction of a pod."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    try:
        cluster.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction), namespace=None)
    except RuntimeError as refused:
        if "disruption budget" not in str(refused):
            raise
        return False
    return True


def test_the_first_request_wakes_a_service_that_sleeps(knative: Cluster) -> None:
    wait_until(lambda: not knative.pods(), "the service to be scaled to zero", seconds=300)

    [response] = knative.call({"path": "/api/v1/users?limit=1"})
    assert response["status"] == 200


def test_a_batch_through_the_broker_is_applied_once(knative: Cluster) -> None:
    user = new_user()
    headers = {
        "ce-specversion": "1.0",
        "ce-id": uuid.uuid4().hex,
        "ce-source": "/e2e",
        "ce-type": "org.userservice.batch.create.v1",
    }
    event = {
        "method": "POST",
        "url": knative.broker,
        "headers": headers,
        "body": {"items": [{"ref": "1", "data": user}]},
    }
    twice = knative.call(dict(event), dict(event))
    assert [response["status"] for response in twice] == [202, 202]

    wait_until(
        lambda: bool(knative.call(find(user))[0]["body"]["items"]),
        "the batch to be applied",
        seconds=120,
        pause_seconds=1,
    )
    [found] = knative.call(find(user))
    assert [one["version"] for one in found["body"]["items"]] == [1]
