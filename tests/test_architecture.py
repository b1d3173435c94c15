"""The rules of the house that a program can check: who imports whom, and how."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS: dict[str, str] = SETTINGS["tool"]["setuptools"]["package-dir"]


def test_imports_point_down_only() -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"),
            *("--config", str(ROOT / "pyproject.toml"), "--no-cache"),
        ],
        cwd=ROOT / ".ci" / "types",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_links_for_type_checkers_are_complete() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "link-types"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("room", sorted(set(ROOMS) - {"writ"}))
def test_a_crossing_shows_at_a_glance(room: str) -> None:
    """Relative inside a room, absolute between rooms."""
    wrong: list[str] = []
    folder = ROOT / ROOMS[room]
    for path in sorted(folder.rglob("*.py")):
        depth = len(path.relative_to(folder).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            match node:
                case ast.ImportFrom(level=level) if level > depth:
                    wrong.append(f"{where}: leaves the room; write `from writ.<room> import ...`")
                case ast.ImportFrom(level=0, module=str(name)) if f"{name}.".startswith(f"{room}."):
                    wrong.append(f"{where}: stays within the room; write it with a leading dot")
                case ast.Import(names=names) if any(f"{each.name}.".startswith(f"{room}.") for each in names):
                    wrong.append(f"{where}: stays within the room; write it with a leading dot")
                case _:
                    pass
    assert not wrong, "\n".join(wrong)
