"""What is installed is the whole tree.

A sub-package that `packages` in pyproject.toml forgets still imports in an editable install, because that
reads the folders themselves, but is absent from the wheel that users get. So: build, and compare.
"""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS: dict[str, str] = SETTINGS["tool"]["setuptools"]["package-dir"]
SKIPPED_SUFFIXES = {".md", ".pyc"}


def installed_files(tree: Path) -> set[str]:
    """Where each file of the tree's rooms belongs in a wheel."""
    found: set[str] = set()
    for package, folder in ROOMS.items():
        home = PurePosixPath(*package.split("."))
        for path in (tree / folder).rglob("*"):
            if path.is_file() and path.suffix not in SKIPPED_SUFFIXES:
                found.add(str(home / path.relative_to(tree / folder).as_posix()))
    return found


def copy_tree(target: Path) -> Path:
    """A clean copy to build in: an earlier build's leftovers would find their way into the wheel."""
    target.mkdir()
    for folder in ROOMS.values():
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    return target


def build(tree: Path) -> tuple[set[str], set[str]]:
    """Build the sdist, and the wheel from the sdist. Both as the sets of paths that they hold."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    (wheel,) = (tree / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {"/".join(Path(name).parts[1:]) for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    return in_sdist, in_wheel


def test_each_folder_with_code_is_a_room() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(ROOMS.values())


@pytest.mark.timeout(300)
def test_the_wheel_holds_the_tree_and_nothing_else(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    expected = installed_files(tree)
    in_sdist, in_wheel = build(tree)
    assert in_wheel == expected
    assert {"LICENSE", "pyproject.toml"} <= in_sdist
    assert {f"writ/{room}py.typed" for room in ("", "schemas/", "broker/", "workers/")} <= in_wheel


@pytest.mark.timeout(300)
def test_a_sub_package_that_was_forgotten_is_noticed(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    forgotten = tree / "schemas" / "forgotten"
    forgotten.mkdir()
    (forgotten / "__init__.py").write_text('"""Listed nowhere."""\n', encoding="utf-8")
    _, in_wheel = build(tree)
    assert installed_files(tree) - in_wheel == {"writ/schemas/forgotten/__init__.py"}
