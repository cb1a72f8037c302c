"""Two builds of the wheel agree byte for byte, and the check notices when they do not."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def check(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(root / "scripts/check-reproducible"), *arguments]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)


def copy_of_the_project(folder: Path) -> Path:
    """A repository of the sources that a wheel is built from, with the environment of this one."""
    root = folder / "project"
    shutil.copytree(ROOT / "func", root / "func", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "scripts/lib.sh", "scripts/check-reproducible"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    library = root / "scripts/lib.sh"
    library.write_text(library.read_text() + f"\nprepare() {{ venv={ROOT}/.venv; }}\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "sources"]):
        subprocess.run(["git", *identity, *command], cwd=root, check=True)
    return root


def test_two_builds_of_the_wheel_agree(tmp_path: Path) -> None:
    built = check(copy_of_the_project(tmp_path), "--wheel-dir", str(tmp_path / "dist"))

    assert built.returncode == 0, built.stderr
    [wheel] = (tmp_path / "dist").glob("*.whl")
    assert built.stdout.split()[1] == wheel.name


def test_a_build_that_depends_on_its_folder_is_noticed(tmp_path: Path) -> None:
    root = copy_of_the_project(tmp_path)
    script = root / "scripts/check-reproducible"
    script.write_text(script.read_text().replace('&& umask "$3" &&', '&& umask "$3" && pwd >>README.md &&'))
    built = check(root)

    assert built.returncode == 1
    assert "Two builds of the wheel differ." in built.stderr
