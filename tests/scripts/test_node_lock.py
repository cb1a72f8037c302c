"""The packages of Node.js are pinned with all that they need, by hashes and without addresses"""

import json
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["requirements/openapi-node", "requirements/axe-node", "clients/typescript"])
def test_every_package_is_pinned_by_a_hash_and_none_by_an_address(folder: str) -> None:
    package = json.loads((ROOT / folder / "package.json").read_text())
    wanted = {**package["dependencies"], **package.get("devDependencies", {})}
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    root = packages.pop("")

    assert {**root["dependencies"], **root.get("devDependencies", {})} == wanted
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []
