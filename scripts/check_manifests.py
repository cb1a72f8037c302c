"""Run every check of manifests, Dockerfile, scripts and workflows; called by scripts/check-manifests."""

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import charts
import custom_resources
import kubernetes_validate
import manifest_rules as rules
import sync_chart
import yaml
from manifests import OVERLAYS, ROOT, STACKS, Document, project, render, render_text, renderers
from placeholders import find_unfilled_lines

KUBERNETES_VERSIONS = ("1.30", "1.37")
LINES_SHOWN = 60
Problems = list[str]


class CheckNotRun(Exception):
    """A check that this machine cannot run; says why."""


def tool(name: str) -> str:
    if path := shutil.which(name):
        return path
    raise CheckNotRun(f"{name} is not installed; scripts/install-tools brings it")


def run(*command: str) -> Problems:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return (result.stdout + result.stderr).strip().splitlines() if result.returncode else []


def for_each_overlay(check: Callable[[str], Problems]) -> Problems:
    return [f"{overlay}: {problem}" for overlay in OVERLAYS for problem in check(overlay)]


@functools.cache
def sources() -> dict[str, list[Document]]:
    """What is checked, by name: every overlay, and the chart with each of its value files.

    Without helm, there are only overlays, and check_chart says that it did not run.
    """
    overlays = {overlay: render(overlay) for overlay in OVERLAYS}
    if shutil.which("helm") is None:
        return overlays
    return overlays | {f"chart/{values.stem}": charts.render_chart(values) for values in charts.VALUE_FILES}


def for_each_source(check: Callable[[list[Document]], Problems]) -> Problems:
    return [f"{name}: {problem}" for name, documents in sources().items() for problem in check(documents)]


def projected_files(folder: str) -> dict[str, str]:
    """Each source as linters are given it, by its name: a Knative Service as the Deployment that it becomes."""
    files = {}
    for name, documents in sources().items():
        file = Path(folder) / f"{name.replace('/', '-')}.yaml"
        file.write_text(yaml.safe_dump_all(project(documents)))
        files[name] = str(file)
    return files


def check_renderers() -> Problems:
    missing = {"kubectl", "kustomize"} - set(renderers())
    if missing:
        raise CheckNotRun(f"{', '.join(sorted(missing))} not installed, so there is nothing to compare")
    return for_each_overlay(
        lambda overlay: (
            []
            if render_text(overlay, "kubectl") == render_text(overlay, "kustomize")
            else ["kubectl and kustomize render it differently"]
        )
    )


def schema_problems(documents: list[Document], version: str) -> Problems:
    found = []
    for document in documents:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            continue  # a custom resource: check_custom_resources has it
        except kubernetes_validate.ValidationError as error:
            found.append(f"{document['kind']}/{document['metadata']['name']}: {error.message} (Kubernetes {version})")
    return found


def check_schemas() -> Problems:
    return for_each_source(
        lambda documents: [
            problem for version in KUBERNETES_VERSIONS for problem in schema_problems(documents, version)
        ]
    )


def check_custom_resources() -> Problems:
    folder = custom_resources.definitions_folder()
    if folder is None:
        raise CheckNotRun("no custom resource definitions; set CRDS to a folder of them")
    checked, found = 0, []
    for name, documents in sources().items():
        count, problems = custom_resources.problems(documents, folder)
        checked += count
        found += [f"{name}: {problem}" for problem in problems]
    beside = folder.parent / "tools" / "validate_crds.py"
    if beside.exists():
        with tempfile.TemporaryDirectory() as scratch:
            files = []
            for name, documents in sources().items():
                files.append(Path(scratch) / f"{name.replace('/', '-')}.yaml")
                files[-1].write_text(yaml.safe_dump_all(documents))
            found += run(sys.executable, str(beside), *map(str, files))
    return found if checked else [*found, "no custom resource was checked"]


def check_rules() -> Problems:
    found = for_each_source(
        lambda documents: [*rules.over_budget(documents), *rules.fights(documents), *rules.unrestricted(documents)]
    )
    for overlay in ("dev", "production"):
        fallback, knative = (render(f"{folder}/overlays/{overlay}") for folder in STACKS.values())
        found += [f"{overlay}: {problem}" for problem in rules.disagreements(fallback, knative)]
        found += [f"{overlay}: {problem}" for problem in rules.shutdown_problems(fallback)]
    for folder in STACKS.values():
        found += find_unfilled_lines(render_text(f"{folder}/overlays/production"))
    return found


def check_chart() -> Problems:
    """Lint the chart with each value file, and compare it with the overlays, object by object."""
    tool("helm")
    found = [f"{path.relative_to(ROOT)} is out of date; run scripts/sync-chart" for path in sync_chart.stale_files()]
    options = ("--strict", "--kube-version", charts.KUBERNETES)
    for values in charts.VALUE_FILES:
        linted = charts.helm("lint", str(charts.CHART), *options, "-f", str(values))
        found += (linted.stdout + linted.stderr).strip().splitlines() if linted.returncode else []
    for name, overlay in charts.MATCHING_OVERLAYS.items():
        problems = charts.compare(charts.CHART / "ci" / f"{name}.yaml", render(overlay))
        found += [f"{name}: {problem}" for problem in problems]
    return found


def lint_projected(*command: str) -> Problems:
    with tempfile.TemporaryDirectory() as folder:
        files = projected_files(folder)
        return [f"{name}: {problem}" for name, file in files.items() for problem in run(*command, file)]


def check_kube_score() -> Problems:
    options = ("--kubernetes-version=v1.30", "--exit-one-on-warning", "--output-format=ci")
    lines = lint_projected(tool("kube-score"), "score", *options)
    return [line for line in lines if "[OK]" not in line and "[SKIPPED]" not in line]


def check_kube_linter() -> Problems:
    return lint_projected(tool("kube-linter"), "lint")


def check_polaris() -> Problems:
    limits = ("--set-exit-code-on-danger", "--set-exit-code-below-score=100")
    return lint_projected(
        tool("polaris"), "audit", *limits, "--only-show-failed-tests", "--format=pretty", "--audit-path"
    )


def check_checkov() -> Problems:
    options = ("--framework=kubernetes", "--quiet", "--compact", "--skip-download", "--file")
    with tempfile.TemporaryDirectory() as folder:
        return run(tool("checkov"), *options, *projected_files(folder).values())


def check_hadolint() -> Problems:
    return run(tool("hadolint"), "Dockerfile", "scripts/stand-ins/Dockerfile")


def shell_scripts() -> list[str]:
    files = [file for folder in ("scripts", ".ci") for file in sorted((ROOT / folder).glob("*")) if file.is_file()]
    marks = (b"bash\n", b"# shellcheck shell=bash\n")
    return [
        str(file.relative_to(ROOT)) for file in files if file.read_bytes().splitlines(keepends=True)[0].endswith(marks)
    ]


def check_shellcheck() -> Problems:
    return run(tool("shellcheck"), "--external-sources", *shell_scripts())


def check_actionlint() -> Problems:
    return run(tool("actionlint"), f"-shellcheck={tool('shellcheck')}", "-pyflakes=")


def check_zizmor() -> Problems:
    return run(tool("zizmor"), "--offline", "--persona=auditor", "--quiet", ".github/workflows")


CHECKS: dict[str, Callable[[], Problems]] = {
    name.removeprefix("check_").replace("_", "-"): check
    for name, check in list(globals().items())
    if name.startswith("check_")
}


def outcomes(names: list[str]) -> Iterator[tuple[str, str, Problems]]:
    for name in names:
        try:
            problems = CHECKS[name]()
        except CheckNotRun as reason:
            yield name, "NOT RUN", [str(reason)]
        else:
            yield name, "FAILED" if problems else "ok", problems


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--require-all", action="store_true", help="a check that cannot run is a failure")
    options = parser.parse_args(arguments)
    if unknown := set(options.checks) - set(CHECKS):
        parser.error(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    bad = {"FAILED", "NOT RUN"} if options.require_all else {"FAILED"}
    failed = 0
    for name, outcome, details in outcomes(options.checks or list(CHECKS)):
        failed += outcome in bad
        shown = details[:LINES_SHOWN]
        shown += [f"... and {len(details) - LINES_SHOWN} lines more"] if details[LINES_SHOWN:] else []
        print(f"{outcome:8} {name}", *(f"         {line}" for line in shown), sep="\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
