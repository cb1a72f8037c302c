"""The decisions of the two autoscalers, as their documentation and sources publish them.

Knative's pod autoscaler looks every 2 s at the concurrency of the last 60 s (stable) and of the last tenth of
that (panic). The horizontal pod autoscaler of Kubernetes looks every 15 s at processor and memory of the container.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, inf
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import yaml

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "autoscaling.knative.dev/"


@dataclass(frozen=True)
class Seen:
    """What an autoscaler is told at a moment: pods that are ready, and averages of the pods together.

    `concurrency` and `cores` are one value a second, the newest last; `memory_mib` is that of one pod.
    """

    now: float
    ready: int
    wanted: int
    concurrency: Sequence[float]
    cores: Sequence[float]
    memory_mib: float


class Autoscaler(Protocol):
    """How many pods there shall be, and whether the activator hands requests out."""

    interval: float

    @property
    def first(self) -> int: ...

    def decide(self, seen: Seen) -> int: ...

    def is_buffered(self, seen: Seen) -> bool: ...


@dataclass
class Knative:
    """Pods by concurrency. The defaults are Knative's own; `of_manifest` reads this project's."""

    target: float = 100
    utilization: float = 0.7
    container_concurrency: int = 100
    burst_capacity: float = 200
    min_scale: int = 0
    max_scale: int = 1_000
    scale_down_delay: float = 0
    activation_scale: int = 1
    interval: float = 2.0
    stable_seconds: int = 60
    panic_seconds: int = 6
    panic_threshold: float = 2.0
    max_up_rate: float = 1_000
    max_down_rate: float = 2
    panicking_since: float = -inf
    panic_pods: int = 0
    former: deque[tuple[float, int]] = field(default_factory=deque)

    @classmethod
    def of_manifest(cls, **changed: Any) -> "Knative":
        service = yaml.safe_load((ROOT / "knative/base/service.yaml").read_text())
        template = service["spec"]["template"]
        notes = {name.removeprefix(PREFIX): text for name, text in template["metadata"]["annotations"].items()}
        settings = {
            "target": float(notes["target"]),
            "utilization": float(notes["target-utilization-percentage"]) / 100,
            "container_concurrency": template["spec"]["containerConcurrency"],
            "burst_capacity": float(notes["target-burst-capacity"]),
            "min_scale": int(notes["min-scale"]),
            "max_scale": int(notes["max-scale"]),
            "scale_down_delay": float(notes["scale-down-delay"].removesuffix("s")),
            "activation_scale": int(notes["activation-scale"]),
        }
        return cls(**(settings | changed))

    @property
    def first(self) -> int:
        return self.min_scale

    @property
    def total(self) -> float:
        return min(self.target, self.container_concurrency or inf)

    def decide(self, seen: Seen) -> int:
        stable, panic = fmean(seen.concurrency[-self.stable_seconds :]), fmean(seen.concurrency[-self.panic_seconds :])
        aim = max(1.0, self.total * self.utilization)
        ready = max(1, seen.ready)
        most, least = ceil(ready * self.max_up_rate), floor(ready / self.max_down_rate)
        calm, hurried = (min(max(ceil(value / aim), least), most) for value in (stable, panic))
        if stable == 0:
            calm = 0
        calm, hurried = (max(number, self.activation_scale) if number else 0 for number in (calm, hurried))
        if ceil(panic / aim) / ready >= self.panic_threshold:
            self.panicking_since = seen.now
        if seen.now - self.panicking_since < self.stable_seconds:
            self.panic_pods = max(self.panic_pods, hurried)
            wanted = max(calm, self.panic_pods)
        else:
            self.panic_pods, wanted = 0, calm
        self.former.append((seen.now, wanted))
        while self.former[0][0] < seen.now - self.scale_down_delay:
            self.former.popleft()
        wanted = max(number for _, number in self.former)
        return min(max(wanted, self.min_scale), self.max_scale)

    def is_buffered(self, seen: Seen) -> bool:
        """Whether the pods that are ready can't take a burst more, so that the activator stays in the path."""
        if self.burst_capacity < 0:
            return True
        panic = fmean(seen.concurrency[-self.panic_seconds :])
        return self.burst_capacity > 0 and floor(seen.ready * self.total - panic - self.burst_capacity) < 0


@dataclass
class Horizontal:
    """Pods by processor and memory of the container, with the behaviour of autoscaling/v2."""

    cpu_request: float
    memory_request_mib: float
    cpu_target: float
    memory_target: float
    min_replicas: int
    max_replicas: int
    up_percent: float
    up_pods: int
    down_percent: float
    down_window: float
    interval: float = 15.0
    tolerance: float = 0.1
    recommended: deque[tuple[float, int]] = field(default_factory=deque)
    down_from: tuple[float, int] = (-inf, 0)

    @classmethod
    def of_manifest(cls, **changed: Any) -> "Horizontal":
        spec = yaml.safe_load((ROOT / "k8s-fallback/base/hpa.yaml").read_text())["spec"]
        deployment = yaml.safe_load((ROOT / "k8s-fallback/base/deployment.yaml").read_text())
        requests = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        targets = {
            metric["containerResource"]["name"]: metric["containerResource"]["target"]["averageUtilization"] / 100
            for metric in spec["metrics"]
        }
        behavior = spec["behavior"]
        up = {policy["type"]: policy["value"] for policy in behavior["scaleUp"]["policies"]}
        settings = {
            "cpu_request": float(requests["cpu"].removesuffix("m")) / 1_000,
            "memory_request_mib": float(requests["memory"].removesuffix("Mi")),
            "cpu_target": targets["cpu"],
            "memory_target": targets["memory"],
            "min_replicas": spec["minReplicas"],
            "max_replicas": spec["maxReplicas"],
            "up_percent": up["Percent"],
            "up_pods": up["Pods"],
            "down_percent": behavior["scaleDown"]["policies"][0]["value"],
            "down_window": behavior["scaleDown"]["stabilizationWindowSeconds"],
        }
        return cls(**(settings | changed))

    @property
    def first(self) -> int:
        return self.min_replicas

    def decide(self, seen: Seen) -> int:
        used = fmean(seen.cores[-int(self.interval) :]) / max(1, seen.ready)
        ratios = (
            used / self.cpu_request / self.cpu_target,
            seen.memory_mib / self.memory_request_mib / self.memory_target,
        )
        wanted = max(
            seen.wanted if abs(ratio - 1) <= self.tolerance else ceil(max(1, seen.ready) * ratio) for ratio in ratios
        )
        self.recommended.append((seen.now, wanted))
        while self.recommended[0][0] < seen.now - self.down_window:
            self.recommended.popleft()
        if wanted > seen.wanted:
            most = max(ceil(seen.wanted * (1 + self.up_percent / 100)), seen.wanted + self.up_pods)
            wanted = min(wanted, most)
        elif wanted < seen.wanted:
            wanted = min(seen.wanted, max(number for _, number in self.recommended))
            if seen.now - self.down_from[0] >= 60:
                self.down_from = (seen.now, seen.wanted)
            wanted = max(wanted, floor(self.down_from[1] * (1 - self.down_percent / 100)))
        return min(max(wanted, self.min_replicas), self.max_replicas)

    def is_buffered(self, seen: Seen) -> bool:
        return False
