"""Ask the package index whether every pinned package has a wheel for each supported Python and platform.

requirements/dev.txt has the service with all its extras, and all of the locks for it. A wheel counts if its hash
is pinned. Prints what is missing and exits with 1. Called by scripts/check-wheels.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
PIN = re.compile(r"([\w.-]+)(?:\[[^]]*\])?==(\S+)(?: ; (.*))?")


@dataclass(frozen=True)
class Platform:
    """What wheels and the markers of requirements call it."""

    name: str
    sys_platform: str
    system: str
    machine: str
    tags: list[str]

    def environment(self, python: tuple[int, int]) -> dict[str, str]:
        version = f"{python[0]}.{python[1]}"
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": self.system,
            "python_full_version": f"{version}.0",
            "python_version": version,
            "sys_platform": self.sys_platform,
        }

    def wheel_tags(self, python: tuple[int, int]) -> set[Tag]:
        interpreter = f"cp{python[0]}{python[1]}"
        return {*cpython_tags(python, platforms=self.tags), *compatible_tags(python, interpreter, self.tags)}


def linux(machine: str) -> Platform:
    """With glibc 2.28, of 2018, or later."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(28, 4, -1)]
    legacy = ("manylinux2014", "manylinux2010", "manylinux1")
    return Platform(f"Linux {machine}", "linux", "Linux", machine, [*tags, *(f"{name}_{machine}" for name in legacy)])


PLATFORMS = (
    linux("x86_64"),
    linux("aarch64"),
    Platform("macOS arm64", "darwin", "Darwin", "arm64", list(mac_platforms((14, 0), "arm64"))),
)


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    marker: str | None
    hashes: frozenset[str]

    def is_wanted(self, environment: dict[str, str]) -> bool:
        return self.marker is None or Marker(self.marker).evaluate(environment)


def read_pins(text: str) -> list[Pin]:
    """The packages of a lock, each once. Raises ValueError for a line that pins none."""
    pins = {}
    for entry in re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE).replace("\\\n", "").split("\n"):
        requirement, *hashes = re.split(r"\s+--hash=sha256:", entry)
        if found := PIN.fullmatch(requirement.strip()):
            name = re.sub(r"[-_.]+", "-", found[1]).lower()
            pins[name] = Pin(name, found[2], found[3], frozenset(h.strip() for h in hashes))
        elif entry.strip():
            raise ValueError(f"not a pinned package: {entry.strip()[:80]}")
    return list(pins.values())


def ask_index(lock: Path) -> dict[str, Any]:
    """What the index has of the pinned versions, as a `pylock.toml`."""
    options = ("--quiet", "--universal", "--no-deps", "--python-version", "3.11", "--format", "pylock.toml")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pylock.toml"
        command = ["uv", "pip", "compile", str(lock), *options, "--output-file", str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return tomllib.loads(output.read_text(encoding="utf-8"))


def wheel_names(package: dict[str, Any], pinned: Iterable[str]) -> Iterator[str]:
    """The file names of its wheels whose hashes are pinned."""
    for wheel in package.get("wheels", []):
        if wheel["hashes"]["sha256"] in pinned:
            yield wheel.get("name") or wheel["url"].rpartition("/")[2]


def missing_wheels(pins: list[Pin], index: dict[str, Any]) -> list[str]:
    """A line for each package, platform and Python without a wheel."""
    packages = {package["name"]: package for package in index["packages"]}
    tags = {}
    for pin in pins:
        names = wheel_names(packages.get(pin.name, {}), pin.hashes)
        tags[pin] = frozenset[Tag]().union(*(parse_wheel_filename(name)[3] for name in names))
    return [
        f"{pin.name} {pin.version}: no wheel for {platform.name} and Python {python[0]}.{python[1]}"
        for platform in PLATFORMS
        for python in PYTHONS
        for pin in pins
        if pin.is_wanted(platform.environment(python)) and not tags[pin] & platform.wheel_tags(python)
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    lock = ROOT / "requirements" / "dev.txt"
    pins = read_pins(lock.read_text(encoding="utf-8"))
    missing = missing_wheels(pins, ask_index(lock))
    print(*missing, sep="\n", end="\n" if missing else "")
    where = f"{', '.join(platform.name for platform in PLATFORMS)}, Python 3.{PYTHONS[0][1]} to 3.{PYTHONS[-1][1]}"
    print(f"{len(pins)} packages, {where}: {len(missing)} wheels missing")
    return 1 if missing or not pins else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
