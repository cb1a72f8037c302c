"""What scripts/deploy.py remembers before it changes the service, and puts back when a step has failed."""

import json
import sys

from deploy_pods import find_troubles
from deploy_run import SERVICE_PODS, Deployment, say

# Where a workload has what the rollback puts back, by its kind; elsewhere in a pod template.
PUT_BACK = {"cronjob": "jobTemplate", "jobsinks.sinks.knative.dev": "job"}


def remember(deployment: Deployment, workload: str) -> None:
    """Keep what is in force of the workload, for the rollback."""
    deployment.has_reached_service = True
    result = deployment.kubectl("get", workload, "--output", f"jsonpath={{.spec.{put_back_field(workload)}}}")
    if result.returncode == 0 and result.stdout:
        deployment.previous[workload] = json.loads(result.stdout)


def roll_back(deployment: Deployment, reason: str) -> None:
    """Put back what was remembered, and show what is known of the failure."""
    say(reason)
    if not deployment.has_applied:
        say("nothing was applied")
        return
    show_failure(deployment)
    if not deployment.has_reached_service:
        say("the service was not changed; the settings and policies that were applied stay")
    elif not deployment.previous:
        say("there is no previous version to go back to; what was applied stays for inspection")
    else:
        put_back(deployment)


def show_failure(deployment: Deployment) -> None:
    pods = deployment.kubectl("get", "pods", "--selector", SERVICE_PODS)
    events = deployment.kubectl("get", "events", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp")
    for line in [*(pods.stdout + pods.stderr).splitlines(), *events.stdout.splitlines()[-10:]]:
        print(line, file=sys.stderr)
    troubles = find_troubles(deployment.pods(SERVICE_PODS))
    crashes = [trouble for trouble in troubles if trouble.exit_code is not None]
    for trouble in crashes[-3:]:
        deployment.show_log(trouble)


def put_back(deployment: Deployment) -> None:
    restored = []
    for workload, value in deployment.previous.items():
        patch = deployment.work / "patch.json"
        change = [{"op": "replace", "path": f"/spec/{put_back_field(workload)}", "value": value}]
        patch.write_text(json.dumps(change), encoding="utf-8")
        result = deployment.kubectl("patch", workload, "--type", "json", "--patch-file", str(patch))
        print(result.stdout + result.stderr, end="", file=sys.stderr)
        if result.returncode:
            say(f"{workload} could not be rolled back")
        else:
            restored.append(workload)
    say(f"rolled back {' '.join(restored)}; the database's schema stays as the migration left it")


def put_back_field(workload: str) -> str:
    """The field of the workload's spec that the rollback puts back."""
    return PUT_BACK.get(workload.partition("/")[0], "template")
