"""Finding tasks in modules and files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from writ.workers import LoadError, load

SOURCE = """
from writ.workers import task

@task
async def one(): ...

@task(name="second")
def two(): ...

both = [one, two]
number = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "jobs_here.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "lacking.py").write_text("import no_such_package")
    (tmp_path / "empty.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("jobs_here", ["one", "second"]),
        ("jobs_here.py", ["one", "second"]),
        ("./jobs_here.py:two", ["second"]),
        ("jobs_here:one", ["one"]),
        ("jobs_here:both", ["one", "second"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_tasks_are_found(place: str, names: list[str]) -> None:
    assert [task.name for task in load(place)] == names


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "names no module"),
        ("jobs_here:", "names no module"),
        ("nowhere", "no module nowhere in .* or on the Python path"),
        ("nowhere.py", "no file nowhere.py in"),
        ("empty", "empty holds no task; put @task above a function in it"),
        ("broken", "broken cannot be imported: ZeroDivisionError: division by zero"),
        ("broken.py", "broken.py cannot be imported: ZeroDivisionError"),
        ("lacking", "lacking imports no_such_package, which is not installed"),
        ("jobs_here:three", "jobs_here has no three; its tasks are: one, second"),
        ("jobs_here:number", "jobs_here:number is a int, not a task"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_found_is_said(place: str, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        load(place)
