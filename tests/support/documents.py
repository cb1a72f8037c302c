"""The fenced blocks of README.md, CONTRIBUTING.md and docs/, and a shell that runs those with commands."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LANGUAGES: Final = {"sh", "python", "js", "text", "json", "yaml", "ini", "sql"}
# Programs whose blocks can't run in this test, and why.
NOT_RUN: Final = {
    "kubectl": "needs a cluster",
    "kind": "needs Docker and the network",
    "helm": "needs a cluster",
    "docker": "needs Docker; scripts/check-one-machine runs the same with podman",
    "scripts/deploy-k8s.sh": "needs a cluster",
    "scripts/test": "would run this test again",
    "scripts/bench": "loads the machine for minutes; a step of .ci/run",
}
PRELUDE: Final = r"""
curl() {
  local number
  number=$(($(ls "$TRACE" | wc -l) + 1))
  command curl --silent --show-error --dump-header "$TRACE/$(printf %03d "$number")" "$@"
}
scripts/user-service() {
  if [ "$*" = "relay --watch" ]; then
    run_until_stopped "$PORT" "$@"
  else
    "$PYTHON" -m user_service.cli.main "$@"
  fi
}
scripts/users() {
  "$PYTHON" -m user_service_client.command.main "$@"
}
scripts/serve() {
  run_until_stopped "$FREE_PORT" serve
}
run_until_stopped() { # run_until_stopped PORT COMMAND...
  local port=$1 process status=0
  shift
  PORT=$port "$PYTHON" -m user_service.cli.main "$@" &
  process=$!
  until command curl --silent --fail --output /dev/null "http://localhost:$port/api/health/ready"; do
    kill -0 "$process"
    sleep 0.1
  done
  sleep 1
  kill -TERM "$process"
  wait "$process" || status=$?
  [ "$status" = 0 ] || [ "$status" = 143 ]
}
"""


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    language: str
    text: str

    @property
    def programs(self) -> set[str]:
        """The first word of each command, and of each alias; assignments before it do not count."""
        commands = re.sub(r"\\\n", " ", re.sub(r"<<'(\w+)'\n.*?^\1$", "", self.text, flags=re.DOTALL | re.MULTILINE))
        words = re.findall(r"(?:^|[|;&(] *)(?:[A-Z_]+=[^\s$]*\s+)*([\w./-]+)", commands, re.MULTILINE)
        aliases = re.findall(r"^alias \w+='(\S+)", commands, re.MULTILINE)
        return {word for word in [*words, *aliases] if not word.startswith("-")}

    @property
    def reasons(self) -> dict[str, str]:
        """Why the block is not run, by program; empty if it is."""
        return {program: NOT_RUN[program] for program in self.programs & NOT_RUN.keys()}


def document_paths() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read_blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    document = path.relative_to(ROOT).as_posix()
    return [
        Block(
            document,
            text.count("\n", 0, found.start()) + 1,
            found[2],
            re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE),
        )
        for found in FENCE.finditer(text)
    ]


def runnable_blocks(path: Path) -> list[Block]:
    return [block for block in read_blocks(path) if block.language == "sh" and not block.reasons]


def expected_statuses(block: Block) -> list[str]:
    """For each request of a block the status in its comment, or `2`, the first digit of a success."""
    starts = [found.start() for found in re.finditer(r"\bcurl ", block.text)]
    parts = [block.text[begin:end] for begin, end in pairwise([*starts, len(block.text)])]
    return [(re.findall(r"# (\d{3})\b", part) or ["2"])[0] for part in parts]


class Shell:
    """Runs the blocks of a document, in order, in one bash, as a reader does who copies them.

    `programs` is the folder of PostgreSQL's programs, `replaced` gives what stands in place of addresses in the text.
    """

    def __init__(self, folder: Path, programs: Path, environ: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        self.folder = folder
        self.programs = programs
        self.environ = environ
        self.replaced = replaced

    def run(self, blocks: list[Block]) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """The ended shell, and the status of each response."""
        trace = self.folder / "trace"
        shutil.rmtree(trace, ignore_errors=True)
        trace.mkdir()
        if not (self.folder / "scripts").exists():
            (self.folder / "scripts").symlink_to(ROOT / "scripts")
        script = PRELUDE + "".join(f"echo '--- {block.document}:{block.line}' >&2\n{block.text}" for block in blocks)
        for placeholder, value in self.replaced.items():
            script = script.replace(placeholder, value)
        result = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env={
                **self.environ,
                "TRACE": str(trace),
                "PYTHON": sys.executable,
                "PATH": f"{self.programs}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        heads = [file.read_text(encoding="latin-1") for file in sorted(trace.iterdir())]
        return result, [re.findall(r"^HTTP/\S+ (\d{3})", head, re.MULTILINE)[-1] for head in heads]
