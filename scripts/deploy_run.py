"""One run of scripts/deploy.py: its state, its calls of kubectl, and what it says of pods."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy_pods import Trouble, find_troubles

NAMESPACE = "microservices"
SERVICE_PODS = "app.kubernetes.io/name=user-service"
LOG_LINES = "30"
POLL_SECONDS = 2.0

Plan = list[tuple[str, ...]]
Completed = subprocess.CompletedProcess[str]


class StepFailed(Exception):
    """Says what went wrong and, where it is known, what to do about it."""


def run(*command: str, env: Mapping[str, str] | None = None) -> Completed:
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def succeed(result: Completed) -> str:
    """The whole output of a command that succeeded."""
    output = (result.stdout + result.stderr).rstrip()
    if result.returncode:
        raise StepFailed(output)
    return output


@dataclass
class Deployment:
    """One run on one cluster. `work` is a temporary folder of the run's own."""

    stack: str
    overlay: str
    context: str
    work: Path
    overlay_folder: Path = Path()
    previous: dict[str, Any] = field(default_factory=dict)
    has_applied: bool = False
    has_reached_service: bool = False
    created_secret: str | None = None
    has_shown_log: bool = False
    said: set[str] = field(default_factory=set)

    @property
    def rendered(self) -> Path:
        return self.work / "rendered.yaml"

    def kubectl(self, *arguments: str) -> Completed:
        return run("kubectl", "--context", self.context, "--namespace", NAMESPACE, *arguments)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        result = self.kubectl("get", "pods", "--selector", selector, "--output", "json")
        return list(json.loads(result.stdout)["items"]) if result.returncode == 0 and result.stdout else []

    def report_troubles(self, selector: str) -> list[Trouble]:
        """The troubles of the pods. Says each new one, and shows the log of the first container that crashed."""
        troubles = find_troubles(self.pods(selector))
        for trouble in troubles:
            if trouble.exit_code is None:
                self.say_once(str(trouble))
            elif not self.has_shown_log:
                self.show_log(trouble)
        return troubles

    def show_log(self, trouble: Trouble) -> None:
        self.has_shown_log = True
        options = ("--container", trouble.container, "--tail", LOG_LINES)
        previous = ("--previous",) if trouble.has_restarted else ()
        result = self.kubectl("logs", trouble.pod, *options, *previous)
        self.say_once(f"{trouble}; its log:\n{result.stdout}{result.stderr}".rstrip())

    def say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            say(text)


def say(message: str) -> None:
    print(f"deploy-k8s: {message}", file=sys.stderr)


def attempts(count: int, *, pause_seconds: float = POLL_SECONDS) -> Iterator[int]:
    for attempt in range(count):
        yield attempt
        time.sleep(pause_seconds)
