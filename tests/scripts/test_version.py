"""The version stands in one place, and whatever names a release has the same."""

import re
import shutil
import subprocess
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest
import version
from version import PLACES, ROOT, find_versions, read_version, set_version

from user_service import __version__


@pytest.mark.parametrize("name", PLACES)
def test_every_place_has_the_version(name: str) -> None:
    assert set(find_versions(name)) == {__version__}, "run scripts/version"


def test_the_distribution_has_the_version() -> None:
    assert read_version() == __version__ == installed_version("function")


def test_no_other_file_names_a_release_of_the_image() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [name for name in listed if name.endswith((".yaml", ".md", ".json", ".toml")) or "/" not in name]
    naming = {
        name
        for name in files
        if (ROOT / name).is_file()
        and re.search(r"\buser-service:\d+\.\d+\.\d+", (ROOT / name).read_text(encoding="utf-8"))
    }

    assert naming - PLACES.keys() == set()


def test_a_new_version_reaches_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    assert set_version("9.8.7", tmp_path) == list(PLACES)
    monkeypatch.setattr(version, "ROOT", tmp_path)
    for name in PLACES:
        assert set(find_versions(name)) == {"9.8.7"}
    assert set_version("9.8.7", tmp_path) == []


def test_the_changelog_has_the_version_with_its_upgrade_notes_and_what_comes_next() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)

    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", headings[1])
    assert "### Upgrade notes" in text.partition(f"## {headings[1]}")[2]
