"""What scripts/check-wheels concludes from a lock and an index; the lock that it reads includes the others."""

from typing import Any, Final

import check_wheels
import pytest
from check_wheels import Pin, missing_wheels, read_pins
from manifests import ROOT

HASH: Final = "1" * 64
LOCK: Final = f"""# a comment
Fast.Thing[extra]==1.2 ; sys_platform != 'win32' \\
    --hash=sha256:{HASH} \\
    --hash=sha256:{"2" * 64}
fast-thing==1.2 ; sys_platform != 'win32' \\
    --hash=sha256:{HASH} \\
    --hash=sha256:{"2" * 64}
"""


def index(*files: str, sha256: str = HASH) -> dict[str, Any]:
    wheels = [{"url": f"https://index.test/1/2/{file}", "hashes": {"sha256": sha256}} for file in files]
    return {"packages": [{"name": "fast-thing", "version": "1.2", "wheels": wheels}]}


def find_missing(found: dict[str, Any], lock: str = LOCK) -> set[str]:
    return {line.partition("no wheel for ")[2] for line in missing_wheels(read_pins(lock), found)}


def test_a_lock_is_read_by_name_version_marker_and_hashes() -> None:
    hashes = frozenset({HASH, "2" * 64})

    assert read_pins(LOCK) == [Pin("fast-thing", "1.2", "sys_platform != 'win32'", hashes)]


@pytest.mark.parametrize("line", ["thing>=1.2", "thing @ https://index.test/thing.whl", "-r other.txt"])
def test_a_line_that_pins_no_package_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a pinned package"):
        read_pins(f"{LOCK}{line}\n")


@pytest.mark.parametrize(
    "files",
    [
        ["fast_thing-1.2-py3-none-any.whl"],
        [
            "fast_thing-1.2-cp311-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "fast_thing-1.2-cp38-abi3-manylinux2014_aarch64.whl",
            "fast_thing-1.2-cp311-abi3-macosx_10_9_universal2.whl",
        ],
    ],
)
def test_wheels_for_all_platforms_are_enough(files: list[str]) -> None:
    assert find_missing(index(*files)) == set()


def test_what_is_missing_is_named_by_platform_and_python() -> None:
    found = index(
        *(f"fast_thing-1.2-cp{python}-cp{python}-manylinux_2_28_x86_64.whl" for python in (311, 312, 313, 314)),
        "fast_thing-1.2-cp311-abi3-macosx_11_0_arm64.whl",
        *(f"fast_thing-1.2-cp{python}-cp{python}-manylinux_2_28_aarch64.whl" for python in (311, 312, 313)),
        "fast_thing-1.2-cp314-cp314-manylinux_2_39_aarch64.whl",
        "fast_thing-1.2-cp314-cp314-musllinux_1_2_aarch64.whl",
    )

    assert find_missing(found) == {"Linux aarch64 and Python 3.14"}


@pytest.mark.parametrize(
    "found",
    [
        index(),
        index("fast_thing-1.2-py3-none-any.whl", sha256="3" * 64),
        {"packages": []},
        {"packages": [{"name": "fast-thing"}]},
    ],
)
def test_a_wheel_that_is_not_pinned_or_not_there_counts_for_nothing(found: dict[str, Any]) -> None:
    assert len(find_missing(found)) == len(check_wheels.PLATFORMS) * len(check_wheels.PYTHONS)


def test_a_package_is_needed_only_where_its_marker_says() -> None:
    lock = LOCK.replace("sys_platform != 'win32'", "sys_platform == 'darwin' and python_full_version < '3.12'")

    assert find_missing(index(), lock) == {"macOS arm64 and Python 3.11"}


@pytest.mark.parametrize("name", ["build", "production", "serve", "standalone"])
def test_the_widest_lock_has_all_of_the_others(name: str) -> None:
    def pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
        text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        return {pin.name: (pin.version, pin.hashes) for pin in read_pins(text)}

    assert pins(name)
    assert pins(name).items() <= pins("dev").items()
