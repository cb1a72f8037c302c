"""The steps of scripts/deploy.py that wait: each ends at once when waiting is in vain, and says why."""

import json

from deploy_pods import EXIT_REFUSED
from deploy_run import LOG_LINES, NAMESPACE, SERVICE_PODS, Deployment, StepFailed, attempts, say

MIGRATION_STATE = 'jsonpath={.status.conditions[?(@.status=="True")].type}'
REVISION_STATE = (
    "jsonpath={.metadata.generation} {.status.observedGeneration} {.status.latestCreatedRevisionName} "
    '{.status.latestReadyRevisionName} {.status.conditions[?(@.type=="Ready")].status}'
)


def wait_migration(deployment: Deployment, job: str) -> None:
    state, is_refused = "", False
    for _ in attempts(300):
        result = deployment.kubectl("get", "job", job, "--output", MIGRATION_STATE)
        state = result.stdout or result.stderr
        if "Complete" in result.stdout:
            return
        troubles = deployment.report_troubles(f"job-name={job}")
        is_refused = any(trouble.exit_code == EXIT_REFUSED for trouble in troubles)
        if "Failed" in result.stdout:
            break
    if is_refused and deployment.created_secret:
        remove_refused_secret(deployment, deployment.created_secret)
    reason = f"the migration did not finish ({state.strip() or 'still running'})"
    if not deployment.has_shown_log:
        log = deployment.kubectl("logs", f"job/{job}", "--tail", LOG_LINES)
        reason += f"; its log:\n{log.stdout}{log.stderr}".rstrip()
    raise StepFailed(reason)


def remove_refused_secret(deployment: Deployment, name: str) -> None:
    """Only one that this run created, and only before the service ran: later, data can be encrypted with its keys."""
    result = deployment.kubectl("delete", "secret", name, "--ignore-not-found")
    if result.returncode:
        say(f"the Secret {name} was refused and could not be deleted: {result.stderr.strip()}")
        return
    say(f"the Secret {name} is not kept, because a setting was refused; discard the keys that were generated for it")


def wait_revision(deployment: Deployment, service: str) -> None:
    """Wait for the newest revision: the service's Ready can still be that of the previous one."""
    seen = ""
    for _ in attempts(150):
        result = deployment.kubectl("get", f"services.serving.knative.dev/{service}", "--output", REVISION_STATE)
        seen = result.stdout or result.stderr
        state = result.stdout.split()
        if is_newest_revision_ready(state):
            return
        if len(state) >= 3 and state[0] == state[1]:
            refuse_crash_loops(deployment, f"serving.knative.dev/revision={state[2]}")
    raise StepFailed(f"the newest revision of {service} did not become ready: {seen.strip()}")


def wait_rollout(deployment: Deployment, name: str) -> None:
    seen = ""
    for _ in attempts(150):
        result = deployment.kubectl("rollout", "status", f"deployment/{name}", "--watch=false")
        seen = result.stdout + result.stderr
        if "successfully rolled out" in result.stdout:
            return
        if result.returncode:
            break
        # Until the controller has seen the change, the newest pods are those of the previous version.
        if "to be observed" not in result.stdout and (pods := newest_pods(deployment, name)):
            refuse_crash_loops(deployment, pods)
    raise StepFailed(f"the rollout of {name} did not finish: {seen.strip()}")


def newest_pods(deployment: Deployment, name: str) -> str | None:
    """The selector of the pods of the Deployment's newest version."""
    result = deployment.kubectl("get", "replicasets", "--selector", SERVICE_PODS, "--output", "json")
    found = json.loads(result.stdout)["items"] if result.returncode == 0 and result.stdout else []
    owned = [s for s in found if any(o["name"] == name for o in s["metadata"].get("ownerReferences", []))]
    if not owned:
        return None
    newest = max(owned, key=lambda s: int(s["metadata"]["annotations"]["deployment.kubernetes.io/revision"]))
    return f"pod-template-hash={newest['metadata']['labels']['pod-template-hash']}"


def refuse_crash_loops(deployment: Deployment, selector: str) -> None:
    final = [trouble for trouble in deployment.report_troubles(selector) if trouble.is_final]
    if final:
        raise StepFailed(f"{final[0]}; it will not become ready")


def wait_replicas(deployment: Deployment, count: str) -> None:
    ready = 0
    for _ in attempts(90):
        result = deployment.kubectl(
            "get", "deployment/user-service-deployment", "--output", "jsonpath={.status.readyReplicas}"
        )
        ready = int(result.stdout or 0)
        if ready >= int(count):
            return
    advice = f"kubectl --context {deployment.context} describe hpa --namespace {NAMESPACE}"
    raise StepFailed(f"{ready} replicas are ready, not {count}: {advice}")


def is_newest_revision_ready(state: list[str]) -> bool:
    """Whether the answer to REVISION_STATE is complete and says so."""
    if len(state) != 5:
        return False
    generation, observed_generation, latest_created, latest_ready, ready = state
    return generation == observed_generation and latest_created == latest_ready and ready == "True"
