"""axe-core, which checks the accessibility of a page. npm installs it when it is first needed, as axe-node pins it."""

import fcntl
import filecmp
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from support.browser import Page

PINNED: Final = Path(__file__).parents[2] / "requirements/axe-node"
FOLDER: Final = Path(os.environ.get("TOOLS_DIR") or Path.home() / ".cache/user-service/tools") / "axe"
NPM: Final = shutil.which("npm")
needs_npm = pytest.mark.skipif(NPM is None, reason="needs npm: apt-get install npm")


def load_axe() -> str:
    """The script; installs it unless the pinned version is there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock_file = FOLDER / "package-lock.json"
        if not lock_file.exists() or not filecmp.cmp(PINNED / lock_file.name, lock_file, shallow=False):
            install()
    return (FOLDER / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


def install() -> None:
    assert NPM is not None
    shutil.copy(PINNED / "package.json", FOLDER)
    shutil.copy(PINNED / "package-lock.json", FOLDER / "wanted.json")
    (FOLDER / "wanted.json").rename(FOLDER / "package-lock.json")
    try:
        subprocess.run(
            [NPM, "ci", "--prefix", FOLDER, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"],
            check=True,
            capture_output=True,
        )
    except BaseException:
        (FOLDER / "package-lock.json").unlink()
        raise


def find_violations(page: Page, script: str) -> list[str]:
    """What axe-core finds on the page as it is: the rule, its impact, and the elements."""
    page.value(f"window.axe === undefined && (() => {{ {script} }})(), 0")
    result = page.send(
        "Runtime.evaluate",
        expression="axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations.map("
        "({id, impact, nodes}) => `${id} (${impact}): ${nodes.map((node) => node.html).join(' | ')}`))",
        awaitPromise=True,
        returnByValue=True,
    )
    assert "exceptionDetails" not in result, result
    found: Any = result["result"]["value"]
    return list(found)
