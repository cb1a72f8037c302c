"""Deploy the service to a cluster: check, migrate, apply, wait, smoke-test; restore the previous version on failure.

--stack auto takes Knative where the cluster has it. --dry-run prints the plan and changes nothing. Production requires
an image by digest. Where production's Secret is missing, it is created from POSTGRES_USER_PASSWORD and REDIS_PASSWORD
of the environment; ENCRYPTION_KEY and INTERNAL_API_KEY are generated if they are not set. KNATIVE_GATEWAY, as
NAMESPACE/SERVICE, is the gateway of the smoke test; SMOKE_SECONDS is the time in which the service must become ready.

Standard library only; scripts/deploy-k8s.sh and scripts/deploy-k8s.ps1 start it with Python 3.11 or later.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from deploy_rollback import roll_back
from deploy_run import NAMESPACE, Deployment, Plan, StepFailed, run
from deploy_steps import STEPS

ROOT = Path(__file__).resolve().parent.parent
COMPONENT = "app.kubernetes.io/component"
STACKS = ("knative", "fallback")
OVERLAYS = ("dev", "production")
# What PowerShell's users type; upper and lower case are the same there.
POWERSHELL_OPTIONS = {
    "-stack": "--stack",
    "-overlay": "--overlay",
    "-image": "--image",
    "-context": "--context",
    "-dryrun": "--dry-run",
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        stop(message)


def stop(reason: str) -> NoReturn:
    print(f"deploy-k8s: {reason}", file=sys.stderr)
    sys.exit(1)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="deploy-k8s", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--stack", default="auto", help="knative, fallback or auto (the default)")
    parser.add_argument("--overlay", default="dev", help="dev (the default) or production")
    parser.add_argument("--image", help="replaces the service's image: NAME[:TAG][@DIGEST]")
    parser.add_argument("--context", help="of kubectl; the default is the current one")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    arguments = [POWERSHELL_OPTIONS.get(argument.lower(), argument) for argument in arguments]
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        stop(f"unknown argument '{unknown[0]}'; see scripts/deploy-k8s.sh --help")
    for name, value in vars(options).items():
        if value == "":
            stop(f"--{name} needs a value")
    if options.stack not in (*STACKS, "auto"):
        stop(f"--stack is knative, fallback or auto, not '{options.stack}'")
    if options.overlay not in OVERLAYS:
        stop(f"--overlay is dev or production, not '{options.overlay}'")
    return options


def current_context() -> str:
    result = run("kubectl", "config", "current-context")
    if result.returncode:
        stop("no cluster: set KUBECONFIG, or name a context with --context (kubectl config get-contexts lists them)")
    return result.stdout.strip()


def detect_stack(context: str) -> str:
    result = run("kubectl", "--context", context, "api-versions")
    if result.returncode:
        stop(f"the cluster of context '{context}' does not answer: {result.stderr.strip()}")
    return "knative" if "serving.knative.dev/v1" in result.stdout.split() else "fallback"


def make_plan(stack: str, overlay: str, image: str | None, context: str) -> Plan:
    """The steps in order, each a tuple of words: kubectl with its arguments, or a name in STEPS with its arguments."""
    kubectl = ("kubectl", "--context", context)
    in_namespace = ("--namespace", NAMESPACE)
    apply = (*kubectl, "apply", "--filename", "rendered.yaml", "--selector")
    rollout = (*kubectl, "rollout", "status")
    folder = "knative" if stack == "knative" else "k8s-fallback"

    plan: Plan = [("render", f"{folder}/overlays/{overlay}")]
    if image:
        plan += [("set-image", image)]
    if overlay == "production":
        plan += [("refuse-placeholders",), ("require-digest",)]
    plan += [("require-kinds",), (*apply, f"{COMPONENT}=setup")]
    if overlay == "production":
        plan += [("ensure-secret", "microservices-secrets")]
    else:
        plan += [(*rollout, "statefulset/postgres-user", *in_namespace, "--timeout", "180s")]
        plan += [(*rollout, "deployment/redis", *in_namespace, "--timeout", "180s")]
    plan += [(*kubectl, "delete", "job", "user-service-migrate", *in_namespace, "--ignore-not-found")]
    plan += [(*apply, f"{COMPONENT}=migrate"), ("wait-migration", "user-service-migrate")]

    plan += [("remember", "cronjob/user-service-prune")]
    apply_service = (*apply, f"{COMPONENT}!=setup,{COMPONENT}!=migrate,{COMPONENT}!=broker")
    if stack == "knative":
        services = ("user-service", "user-service-events")
        plan += [("remember", "jobsinks.sinks.knative.dev/user-service-dead-letters")]
        plan += [("remember", f"services.serving.knative.dev/{service}") for service in services]
        # A SinkBinding that is ready before the Services makes no second revision of them.
        plan += [(*apply, f"{COMPONENT}=broker")]
        wait = (*kubectl, "wait", "--for=condition=Ready")
        for resource in ("brokers.eventing.knative.dev/user-service", "sinkbindings.sources.knative.dev/user-service"):
            plan += [(*wait, resource, *in_namespace, "--timeout", "120s")]
        plan += [apply_service]
        plan += [("wait-revision", service) for service in services]
    else:
        plan += [("remember", "deployment/user-service-deployment"), apply_service]
        plan += [("wait-rollout", "user-service-deployment")]
        if overlay == "production":
            plan += [("wait-replicas", "3")]
    return [*plan, ("smoke-test",)]


def execute(plan: Plan, deployment: Deployment) -> int:
    """Run the steps in order. The exit status is 1 after the first failure, which is also rolled back."""
    for step in plan:
        print(f"--- {' '.join(step)}", flush=True)
        name, *arguments = step
        try:
            output = STEPS[name](deployment, *arguments)
        except (StepFailed, OSError, ValueError) as failure:
            print(failure, file=sys.stderr)
            roll_back(deployment, f"failed at: {' '.join(step)}")
            return 1
        if output:
            print(output, flush=True)
    return 0


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    os.chdir(ROOT)
    if not shutil.which("kubectl"):
        stop("kubectl is not on PATH; install it")
    context = options.context or current_context()
    stack = detect_stack(context) if options.stack == "auto" else options.stack
    plan = make_plan(stack, options.overlay, options.image, context)
    if options.dry_run:
        print(*(" ".join(step) for step in plan), sep="\n")
        return 0
    # An exception, so that the temporary files, a Secret's among them, are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="user-service-") as work:
        status = execute(plan, Deployment(stack, options.overlay, context, Path(work).resolve()))
    if status == 0:
        print(f"deployed: {stack}/{options.overlay} on {context}")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
