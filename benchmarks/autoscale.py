"""What the autoscalers make of measured service times: `python -m benchmarks.autoscale`.

Every request is simulated: its arrival, the pod it goes to, the pod's one processor in order of arrival, the wait for
PostgreSQL beside it. The service time is measured on this machine unless it is given. Prints a table, keeps it as
Markdown, and draws the chosen settings as SVG when matplotlib is there (the extra `drawing`).
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.autoscalers import Autoscaler, Horizontal, Knative, Seen
from benchmarks.cold_start import get, start
from benchmarks.load import CONNECTIONS, LAPS, Target, change, run_wrk, write_targets
from benchmarks.people import USERS, create_users
from benchmarks.processes import free_port, processor_seconds
from benchmarks.report import RESULTS
from benchmarks.servers import open_bench, serve_command, service, service_env

SEED = 2026
SECONDS = 300
# From the decision to a container that runs: scheduling and an image that the node has. Not ours, and an assumption.
CLUSTER_START_SECONDS = 1.5
MEMORY_MIB = 110.0


@dataclass(frozen=True)
class Measured:
    """One pod: processor time of a request, the wait beside it, and exec to the first answer; all in seconds."""

    cpu: float
    wait: float
    start: float

    @property
    def capacity(self) -> float:
        """Requests a second of one pod with a core to itself."""
        return 1 / self.cpu


@dataclass(frozen=True)
class Trace:
    """Requests a second, as a multiple of one pod's capacity, at a moment in seconds."""

    name: str
    load: Callable[[float], float]
    # Before it, the number of pods finds itself, and nothing counts.
    counted_from: float


TRACES = (
    Trace("steady", lambda _: 1.5, 60),
    Trace("bursty", lambda now: 3.0 if 90 <= now < 120 or 200 <= now < 230 else 0.3, 60),
    Trace("from zero", lambda now: 0.3 if now >= 60 else 0.0, 60),
)


@dataclass
class Pod:
    ready_at: float
    free_at: float = 0.0


@dataclass
class Run:
    """What happened: latencies in seconds, pods and requests that waited for one by second."""

    latencies: list[float] = field(default_factory=list)
    pods: list[int] = field(default_factory=list)
    concurrency: list[float] = field(default_factory=lambda: [0.0] * (SECONDS + 600))
    cores: list[float] = field(default_factory=lambda: [0.0] * (SECONDS + 600))
    held: int = 0

    def quantile(self, share: float) -> float:
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


def arrivals(trace: Trace, capacity: float, chance: random.Random) -> Iterator[float]:
    """A Poisson process whose rate follows the trace."""
    now = 0.0
    while now < SECONDS:
        rate = trace.load(now) * capacity
        if rate == 0:
            now += 1.0
            continue
        now += chance.expovariate(rate)
        yield now


def spread(seconds: list[float], begin: float, end: float) -> None:
    """Adds the time from begin to end to the seconds that it lies in."""
    first, last = int(begin), min(int(end), len(seconds) - 1)
    if first == last:
        seconds[first] += end - begin
        return
    seconds[first] += first + 1 - begin
    for second in range(first + 1, last):
        seconds[second] += 1.0
    seconds[last] += end - last


def simulate(scaler: Autoscaler, trace: Trace, measured: Measured) -> Run:
    chance = random.Random(SEED)
    run = Run()
    pods = [Pod(ready_at=0.0) for _ in range(scaler.first)]
    waiting: list[float] = []
    buffered, tick, second = True, scaler.interval, 0
    woken = False

    def serve(pod: Pod, arrived: float, now: float) -> None:
        cpu = chance.expovariate(1 / measured.cpu)
        begin = max(now, pod.free_at)
        pod.free_at = begin + cpu
        done = pod.free_at + measured.wait
        if arrived >= trace.counted_from:
            run.latencies.append(done - arrived)
        spread(run.concurrency, arrived, done)
        spread(run.cores, begin, pod.free_at)

    def look(now: float) -> None:
        nonlocal pods, buffered
        ready = sum(pod.ready_at <= now for pod in pods)
        passed = int(now)
        seen = Seen(now, ready, len(pods), run.concurrency[:passed] or [0.0], run.cores[:passed] or [0.0], MEMORY_MIB)
        if waiting:
            # The activator reports the requests that it holds.
            held = list(seen.concurrency)
            held[-1] += len(waiting)
            seen = Seen(now, ready, len(pods), held, seen.cores, MEMORY_MIB)
        wanted = scaler.decide(seen)
        buffered = scaler.is_buffered(seen)
        if wanted > len(pods):
            pods += [Pod(now + CLUSTER_START_SECONDS + measured.start) for _ in range(wanted - len(pods))]
        elif wanted < len(pods):
            pods = sorted(pods, key=lambda pod: pod.ready_at)[:wanted]

    for now in [*arrivals(trace, measured.capacity, chance), float(SECONDS)]:
        while tick <= now:
            look(tick)
            tick += scaler.interval
        while second <= now:
            if second >= trace.counted_from:
                run.pods.append(len(pods))
            second += 1
        ready = [pod for pod in pods if pod.ready_at <= now]
        if not pods and not woken:
            # The first request of a service at zero pokes the autoscaler at once.
            woken = True
            waiting.append(now)
            look(now)
            continue
        if not ready:
            waiting.append(now)
            continue
        if waiting:
            run.held += len(waiting)
            opened = min(pod.ready_at for pod in ready)
            for arrived in waiting:
                serve(min(ready, key=lambda pod: pod.free_at), arrived, max(arrived, opened))
            waiting.clear()
        pod = min(ready, key=lambda pod: pod.free_at) if buffered else chance.choice(ready)
        serve(pod, now, now)
    return run


def candidates() -> list[tuple[str, str, Callable[[], Autoscaler]]]:
    """What is compared, by trace: the manifests' own settings and what else they could be."""
    knative: list[tuple[str, Callable[[], Autoscaler]]] = [
        ("Knative, as chosen", Knative.of_manifest),
        ("  target 40", lambda: Knative.of_manifest(target=40)),
        ("  utilization 70 %", lambda: Knative.of_manifest(utilization=0.7)),
        ("  burst capacity 0", lambda: Knative.of_manifest(burst_capacity=0)),
        ("  always through the activator", lambda: Knative.of_manifest(burst_capacity=-1)),
        ("  activation scale 1", lambda: Knative.of_manifest(activation_scale=1)),
        ("  no scale-down delay", lambda: Knative.of_manifest(scale_down_delay=0)),
        ("  min-scale 0 (development)", lambda: Knative.of_manifest(min_scale=0)),
        ("  min-scale 2", lambda: Knative.of_manifest(min_scale=2)),
    ]
    horizontal: list[tuple[str, Callable[[], Autoscaler]]] = [
        ("HPA, as chosen", Horizontal.of_manifest),
        ("  processor 50 %", lambda: Horizontal.of_manifest(cpu_target=0.5)),
        ("  processor 300 % of the request", lambda: Horizontal.of_manifest(cpu_target=3.0)),
        ("  scale-up of 2 pods a step", lambda: Horizontal.of_manifest(up_percent=0, up_pods=2)),
    ]
    chosen = [(trace.name, label, make) for trace in TRACES for label, make in knative]
    return chosen + [(trace.name, label, make) for trace in TRACES[:2] for label, make in horizontal]


def measure() -> Measured:
    """A mix of 80 % cached reads, 15 % reads from PostgreSQL and 5 % changes, on one worker of this machine."""
    with open_bench([str(Path(sys.executable).with_name("user-service"))]) as bench:
        with service(bench) as server:
            users = create_users(server, 200, series="autoscale")
            lines = []
            for lap in LAPS:
                mixed = []
                for user_id in users:
                    path = f"{USERS}/{user_id}"
                    mixed += [Target(path)] * 16 + [Target(path, headers={"Cache-Control": "no-cache"})] * 3
                    mixed.append(change(path, lap))
                random.Random(SEED).shuffle(mixed)
                lines += mixed
            asked = write_targets(bench.folder / "targets-autoscale.tsv", lines)
            run_wrk(server, asked, seconds=2, connections=CONNECTIONS)
            before = processor_seconds(server.pid)
            seen = run_wrk(server, asked, seconds=8, connections=CONNECTIONS)
            cpu = (processor_seconds(server.pid) - before) / seen["requests"]
            alone = run_wrk(server, asked, seconds=2, connections=1)
        user_id, starts = next(iter(users)), []
        for _ in range(5):
            port = free_port()
            env = service_env(bench, port)
            begun = start(serve_command(bench), env=env, log=bench.log("cold"), port=port, request=get(user_id))
            starts.append(begun.ms / 1_000)
    return Measured(cpu, max(0.0, alone["seconds"] / alone["requests"] - cpu), sorted(starts)[2])


def table(measured: Measured) -> tuple[list[str], dict[tuple[str, str], Run]]:
    lines = [
        f"One pod: {measured.cpu * 1e6:.0f} us of processor a request ({measured.capacity:,.0f} requests/s), "
        f"{measured.wait * 1e3:.1f} ms of waiting, {measured.start * 1e3:.0f} ms from exec to the first read, "
        f"after {CLUSTER_START_SECONDS} s of the cluster's own.",
        "",
        "| trace | settings | p50 | p99 | worst | pods, mean | pods, most | held for a pod |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    runs = {}
    traces = {trace.name: trace for trace in TRACES}
    for name, label, make in candidates():
        run = runs[name, label] = simulate(make(), traces[name], measured)
        p50, p99, worst = (run.quantile(share) * 1e3 for share in (0.5, 0.99, 1.0))
        lines.append(
            f"| {name} | {label} | {p50:,.1f} ms | {p99:,.0f} ms | {worst:,.0f} ms "
            f"| {fmean(run.pods):.1f} | {max(run.pods)} | {run.held:,} |"
        )
        print(lines[-1], flush=True)
    return lines, runs


def plot(runs: dict[tuple[str, str], Run], file: Path) -> None:
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        return
    shown = [(trace.name, label) for label in ("Knative, as chosen", "HPA, as chosen") for trace in TRACES]
    shown = [key for key in shown if key in runs]
    figure, axes = pyplot.subplots(len(shown), 1, figsize=(8, 2 * len(shown)), sharex=True)
    for axis, key in zip(axes, shown, strict=True):
        run = runs[key]
        axis.plot(range(60, SECONDS), run.concurrency[60:SECONDS], color="#9aa5b1", linewidth=1)
        axis.set_ylabel("requests at work", fontsize=7)
        axis.set_title(f"{key[1]}: {key[0]}", fontsize=8, loc="left")
        pods = axis.twinx()
        pods.step(range(SECONDS - len(run.pods), SECONDS), run.pods, color="#0b6bcb", where="post")
        pods.set_ylabel("pods", fontsize=7, color="#0b6bcb")
        pods.set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(file)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.autoscale", description=__doc__)
    for name in ("cpu-us", "wait-ms", "start-ms"):
        parser.add_argument(f"--{name}", type=float, help="measured if not given")
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    if None in given.values():
        measured = measure()
    else:
        measured = Measured(given["cpu_us"] / 1e6, given["wait_ms"] / 1e3, given["start_ms"] / 1e3)
    lines, runs = table(measured)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "autoscale.md").write_text("\n".join(lines) + "\n")
    plot(runs, RESULTS / "autoscale.svg")
    print(f"\nkept in {RESULTS / 'autoscale.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
