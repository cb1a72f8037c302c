"""What the pods of a workload say to the deploy script: containers that crashed or cannot start, and why."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# The service exits with it when it refuses a setting, which no restart mends.
EXIT_REFUSED = 2
WAITS_FOR_NOTHING_WRONG = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class Trouble:
    """A container that crashed or cannot start."""

    pod: str
    container: str
    reason: str
    exit_code: int | None = None
    is_crash_loop: bool = False
    # The log of the crash is that of the instance before the one that runs now.
    has_restarted: bool = False

    @property
    def is_final(self) -> bool:
        """Whether waiting for it is in vain."""
        return self.is_crash_loop or self.exit_code == EXIT_REFUSED

    def __str__(self) -> str:
        return f"container {self.container} of pod {self.pod}: {self.reason}"


def find_troubles(pods: Iterable[dict[str, Any]]) -> list[Trouble]:
    """The troubles of pods as the API server gives them, the oldest pod first."""
    by_age = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    return [trouble for pod in by_age for trouble in troubles_of_pod(pod)]


def troubles_of_pod(pod: dict[str, Any]) -> Iterator[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        now = container.get("state", {}).get("terminated")
        ended = now or container.get("lastState", {}).get("terminated") or {}
        exit_code = ended.get("exitCode") or None
        if exit_code is not None:
            what = f"exited with {exit_code} ({ended.get('reason', 'Error')})"
            reason = f"{what}, {reason}" if reason else what
        elif reason and reason not in WAITS_FOR_NOTHING_WRONG:
            reason = f"{reason} {waiting.get('message', '')}".rstrip()
        else:
            continue
        yield Trouble(
            pod=name,
            container=container["name"],
            reason=reason,
            exit_code=exit_code,
            is_crash_loop=waiting.get("reason") == "CrashLoopBackOff",
            has_restarted=exit_code is not None and now is None,
        )
