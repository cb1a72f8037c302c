"""The Node.js tools of scripts/check-openapi and of the tests are pinned with all that they need"""

import json
from pathlib import Path
from typing import Final

import pytest

REQUIREMENTS: Final = Path(__file__).parents[2] / "requirements"


@pytest.mark.parametrize("folder", [REQUIREMENTS / "openapi-node", REQUIREMENTS / "axe-node"], ids=str)
def test_every_package_is_pinned_by_a_hash_and_none_by_an_address(folder: Path) -> None:
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    root = packages.pop("")

    assert root["dependencies"] == wanted
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []
