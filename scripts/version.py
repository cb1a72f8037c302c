"""Print the version of the project, or set it where it stands, and in what names a release of it.

Called by scripts/version. Standard library only. The clients have versions of their own.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "func/user_service/__init__.py"
VERSION = r"(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)"
# Where else a version of the project stands, each as a pattern with the version as its group.
PLACES = {
    "func/user_service/__init__.py": rf'^__version__ = "{VERSION}"$',
    "charts/user-service/Chart.yaml": rf"^(?:version|appVersion): {VERSION}$",
    "compose.yaml": rf"/user-service:{VERSION}\}}$",
    "docs/deployment.md": rf"(?:(?<=user-service:)|(?<=ref=v)){VERSION}",
    "docs/gitops.md": rf"(?<=-am \"user-service ){VERSION}",
    "docs/verify.md": rf"(?<=checkout v){VERSION}",
    **{
        f"{folder}/{name}": rf"^ +image: user-service:{VERSION}$"
        for folder, names in {
            "k8s-common/base": ("migrate-job.yaml", "prune-cronjob.yaml"),
            "k8s-fallback/base": ("deployment.yaml",),
            "knative/base": ("service.yaml", "service-events.yaml", "deadletters.yaml"),
        }.items()
        for name in names
    },
}


def read_version() -> str:
    [found] = find_versions("func/user_service/__init__.py")
    return found


def find_versions(name: str) -> list[str]:
    """The versions that stand in a file."""
    return re.findall(PLACES[name], (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


def set_version(version: str, root: Path = ROOT) -> list[str]:
    """Writes the version into every place; returns the files that changed."""
    changed = []
    for name, pattern in PLACES.items():
        file = root / name
        old = file.read_text(encoding="utf-8")
        new = re.sub(pattern, lambda match: match[0].replace(match[1], version), old, flags=re.MULTILINE)
        if new != old:
            file.write_text(new, encoding="utf-8")
            changed.append(name)
    return changed


def main(arguments: list[str]) -> int:
    if not arguments:
        print(read_version())
        return 0
    if len(arguments) > 1 or not re.fullmatch(VERSION, arguments[0]):
        print("usage: scripts/version [MAJOR.MINOR.PATCH]", file=sys.stderr)
        return 2
    for name in set_version(arguments[0]):
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
