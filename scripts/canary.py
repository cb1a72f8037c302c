"""Move the traffic of the Knative Service to its newest revision in steps, and back if it breaks the objectives.

Needs kubectl and no Python packages; called by scripts/canary. Exit status 0: the revision that was watched has all
traffic; 1: the former one has it again, and the reason was printed; 2: wrong usage, or the cluster could not be asked.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

# The objectives of the alerts (docs/observability.md): 99.9 % without 5xx, 99 % within 250 ms.
ERROR_BUDGET = 0.001
SLOW_BUDGET = 0.01
COUNTED_ROUTES = 'route!~"/api/health/.*|/metrics|.*/(imports|export)(/.*)?"'
POLL_SECONDS = 5.0
MAX_FAILED_QUERIES = 3
Traffic = list[dict[str, Any]]


class CanaryFailed(Exception):
    """Why the candidate gets no traffic."""


class ClusterFailed(Exception):
    """kubectl could not do what it was asked."""


@dataclass(frozen=True)
class Options:
    namespace: str
    service: str
    prometheus: str
    steps: list[int]
    seconds: float
    burn: float
    min_requests: int
    patience: float


@dataclass(frozen=True)
class Counts:
    """Requests of a revision within a step."""

    total: float
    errors: float
    slow: float


def kubectl(namespace: str, *arguments: str) -> str:
    result = subprocess.run(
        ["kubectl", "--namespace", namespace, *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise ClusterFailed(result.stderr.strip() or f"kubectl {arguments[0]} failed")
    return result.stdout


def read_service(namespace: str, service: str) -> dict[str, Any]:
    return dict(json.loads(kubectl(namespace, "get", "services.serving.knative.dev", service, "--output", "json")))


def stable_revision(service: dict[str, Any], *, is_way_back: bool = False) -> str:
    """The revision with the tag `stable`, else the one with the most traffic. Raises ClusterFailed if there is none.

    A tag without traffic counts for the way back only: elsewhere it is left from a run that moved all traffic.
    """
    targets = service.get("status", {}).get("traffic", [])
    for target in targets:
        if target.get("tag") == "stable" and (is_way_back or target.get("percent")):
            return str(target["revisionName"])
    targets = [target for target in targets if target.get("percent")]
    if not targets:
        raise ClusterFailed("the service has no revision with traffic yet: deploy it first")
    return str(max(targets, key=lambda target: target["percent"])["revisionName"])


def split(stable: str, candidate: str, percent: int) -> Traffic:
    """The candidate gets a share. Revisions that come meanwhile get nothing."""
    return [
        {"tag": "stable", "revisionName": stable, "percent": 100 - percent},
        {"tag": "candidate", "revisionName": candidate, "percent": percent},
        {"tag": "latest", "latestRevision": True, "percent": 0},
    ]


def pinned(stable: str) -> Traffic:
    """The serving revision keeps all traffic; the newest is reached by its tag only."""
    return [
        {"tag": "stable", "revisionName": stable, "percent": 100},
        {"tag": "candidate", "latestRevision": True, "percent": 0},
    ]


RELEASED: Traffic = [{"latestRevision": True, "percent": 100}]


def set_traffic(namespace: str, service: str, traffic: Traffic) -> None:
    patch = json.dumps({"spec": {"traffic": traffic}})
    kubectl(namespace, "patch", "services.serving.knative.dev", service, "--type", "merge", "--patch", patch)
    shares = [f"{target.get('revisionName', 'latest')} {target['percent']} %" for target in traffic]
    print(f"traffic: {', '.join(shares)}", flush=True)


def ask(prometheus: str, query: str) -> float:
    """The value of a query with one result; 0 without one. Raises OSError, ValueError."""
    address = f"{prometheus.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address, timeout=10) as response:
        answer = json.load(response)
    if answer.get("status") != "success":
        raise ValueError(f"Prometheus refused the query: {answer.get('error')}")
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


def queries(namespace: str, revision: str, seconds: int) -> dict[str, str]:
    own = f'namespace="{namespace}", job=~"(.+/)?user-service", serving_knative_dev_revision="{revision}"'
    counted = f"{own}, {COUNTED_ROUTES}"

    def increase(metric: str, matchers: str) -> str:
        return f"(sum(increase({metric}{{{matchers}}}[{seconds}s])) or vector(0))"

    shed = increase("user_shed_total", own)
    failed = increase("http_requests_total", f'{counted}, status=~"5.."')
    timed = increase("http_request_duration_seconds_bucket", f'{counted}, le="+Inf"')
    quick = increase("http_request_duration_seconds_bucket", f'{counted}, le="0.25"')
    return {
        "total": f"{increase('http_requests_total', counted)} + {shed}",
        "errors": f"{failed} + {shed}",
        "slow": f"{timed} - {quick}",
    }


def read_counts(options: Options, revision: str, seconds: float) -> Counts:
    window = max(60, round(seconds))
    found = {name: ask(options.prometheus, q) for name, q in queries(options.namespace, revision, window).items()}
    return Counts(**found)


def judge(counts: Counts, burn: float) -> str | None:
    """Why the revision must not go on; None if it may."""
    for name, count, budget in (("5xx", counts.errors, ERROR_BUDGET), ("over 250 ms", counts.slow, SLOW_BUDGET)):
        if counts.total and count / counts.total > budget * burn:
            share = f"{100 * count / counts.total:.2f} %"
            return f"{share} of {counts.total:.0f} requests are {name}; {100 * budget * burn:.2f} % are allowed"
    return None


def watch(options: Options, revision: str) -> None:
    """Watch a revision for one step. Raises CanaryFailed."""
    started, failed = time.monotonic(), 0
    while True:
        time.sleep(min(POLL_SECONDS, options.seconds))
        elapsed = time.monotonic() - started
        try:
            counts = read_counts(options, revision, elapsed)
        except (OSError, ValueError) as error:
            failed += 1
            if failed >= MAX_FAILED_QUERIES:
                raise CanaryFailed(f"Prometheus did not answer {failed} times: {error}") from None
            continue
        failed = 0
        if counts.total >= options.min_requests and (reason := judge(counts, options.burn)):
            raise CanaryFailed(reason)
        if elapsed >= options.seconds and counts.total >= options.min_requests:
            bad = f"{counts.errors:.0f} with 5xx, {counts.slow:.0f} over 250 ms"
            print(f"  {counts.total:.0f} requests, {bad}", flush=True)
            return
        if elapsed >= options.seconds + options.patience:
            needed = f"{options.min_requests} are needed to judge it"
            raise CanaryFailed(f"{revision} had {counts.total:.0f} requests in {elapsed:.0f} s, and {needed}")


def wait_until_ready(options: Options, stable: str) -> str:
    """The newest revision, once it is ready. Raises CanaryFailed."""
    deadline = time.monotonic() + options.patience
    while True:
        status = read_service(options.namespace, options.service).get("status", {})
        created, ready = status.get("latestCreatedRevisionName"), status.get("latestReadyRevisionName")
        if created and created == ready and created != stable:
            return str(created)
        if time.monotonic() > deadline:
            what = "there is no newer revision" if created in (None, stable) else f"{created} did not become ready"
            raise CanaryFailed(f"{what} after {options.patience:.0f} s")
        time.sleep(min(POLL_SECONDS, options.patience))


def run(options: Options) -> int:
    stable = stable_revision(read_service(options.namespace, options.service))
    try:
        candidate = wait_until_ready(options, stable)
        print(f"from {stable} to {candidate}", flush=True)
        for percent in options.steps:
            set_traffic(options.namespace, options.service, split(stable, candidate, percent))
            watch(options, candidate)
        newest = read_service(options.namespace, options.service).get("status", {}).get("latestCreatedRevisionName")
        is_newest = newest == candidate
        set_traffic(options.namespace, options.service, RELEASED if is_newest else split(stable, candidate, 100))
    except (CanaryFailed, ClusterFailed, KeyboardInterrupt) as reason:
        # A second signal must not end the way back.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        print(f"FAIL {str(reason) or 'interrupted'}; back to {stable}", flush=True)
        set_traffic(options.namespace, options.service, pinned(stable))
        return 1
    kept = "" if is_newest else f"; {newest} appeared during the run, was not watched and gets none"
    print(f"ok   {candidate} has all traffic{kept}")
    return 0


def interrupt(_: int, __: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt("ended by a signal")


def percentages(text: str) -> list[int]:
    steps = [int(step) for step in text.split(",")]
    if steps != sorted(set(steps)) or not all(0 < step <= 100 for step in steps):
        raise ValueError
    return steps


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["pin", "run", "back"])
    parser.add_argument("--namespace", default="microservices")
    parser.add_argument("--service", default="user-service", help="of the chart: the name of its objects")
    parser.add_argument("--prometheus", help="its address, for example http://127.0.0.1:9090 behind a port-forward")
    parser.add_argument("--steps", type=percentages, default=[5, 25, 50, 100], help="default: 5,25,50,100")
    parser.add_argument("--seconds", type=float, default=300, help="how long each step is watched; default: 300")
    parser.add_argument("--burn", type=float, default=14.4, help="how fast a budget may burn; default: 14.4")
    parser.add_argument("--min-requests", type=int, default=200, help="fewer in a step are no judgement; default: 200")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for them, and for the revision")
    given = parser.parse_args(arguments)
    if given.action == "run" and not given.prometheus:
        parser.error("run needs --prometheus")
    signal.signal(signal.SIGTERM, interrupt)
    try:
        if given.action == "run":
            del given.action
            return run(Options(**vars(given)))
        stable = stable_revision(read_service(given.namespace, given.service), is_way_back=given.action == "back")
        set_traffic(given.namespace, given.service, pinned(stable))
    except ClusterFailed as error:
        print(f"canary: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
