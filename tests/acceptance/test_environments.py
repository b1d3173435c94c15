"""Provisioned environments: made once, whole or not at all, of what was pinned, for checked code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.workers.environments import Code, default_cache, digest_of_pins, provision
from writ.workers.errors import WorkerError

if TYPE_CHECKING:
    from .conftest import Place

TASKS = """
import sys

import pinned
from helpers import twice
from writ import task


@task
def where() -> list:
    try:
        import pytest
        others = True
    except ModuleNotFoundError:
        others = False
    return [pinned.VALUE, twice(2), sys.prefix, others]
"""


def wheel(folder: Path, version: str = "1.0", value: int = 7) -> Path:
    """A wheel of a distribution `pinned`, as pip installs it without asking anybody."""
    path = folder / f"pinned-{version}-py3-none-any.whl"
    info = f"pinned-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pinned.py", f"VALUE = {value}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: pinned\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


def package(folder: Path, **changed: Any) -> Path:
    """The folder of a package."""
    folder.mkdir()
    about = {"name": "invoices", "version": "1.4.0", "module": "work.py"} | changed
    (folder / "process.json").write_text(json.dumps(about))
    (folder / "requirements.txt").write_text("pinned==1.0\n")
    (folder / "work.py").write_text(TASKS)
    (folder / "helpers.py").write_text("def twice(n):\n    return 2 * n\n")
    return folder


def code(requirements: str = "pinned==1.0\n", **files: bytes) -> Code:
    return Code("invoices", "1.4.0", "d" * 64, "work.py", requirements, files or {"work.py": b"x = 1\n"})


@pytest.mark.parametrize("level", ["plain", "landlock"])
def test_attempts_run_in_the_environment_of_their_process(own_place: Place, index: Path, level: str) -> None:
    """Must hold: `writ worker --process NAME@VERSION` makes a virtual environment from the package's pinned
    requirements, and attempts run in it, without the worker's own packages.
    """
    root = own_place.root
    cache, source = str(root / "cache"), str(package(root / "package"))
    options = ("--process", "invoices@1.4.0", "--package", source, "--cache", cache, "--isolate", level)
    with own_place.worker(*options, "--queue", "q"):
        said = json.loads(own_place.writ("submit", "q", "where", "--wait").stdout)
    (made,) = [each for each in (root / "cache" / "environments").iterdir() if each.is_dir()]
    assert said == [7, 4, str(made), False]


def test_a_package_that_was_changed_is_refused(own_place: Place, index: Path) -> None:
    """A tampered package is refused by the worker, by its digest; so is one that is another's."""
    root = own_place.root
    source = package(root / "package")

    def worker(*options: str) -> str:
        given = ("worker", "--package", str(source), "--cache", str(root / "cache"), "--queue", "q", *options)
        done = own_place.writ(*given, check=False)
        assert done.returncode != 0
        return done.stderr

    said = worker("--process", "invoices@1.4.0", "--digest", "0" * 64)
    digest = said.partition("has digest ")[2].partition(",")[0]
    assert len(digest) == 64
    (source / "helpers.py").write_text("def twice(n):\n    return 3 * n\n")
    assert "it was changed" in worker("--process", "invoices@1.4.0", "--digest", digest)
    assert "is invoices@1.4.0, and not invoices@2" in worker("--process", "invoices@2")
    (source / "requirements.txt").write_text("pinned>=1\n")
    assert "'pinned>=1' is not pinned" in worker("--process", "invoices@1.4.0")
    assert not (root / "cache" / "environments").exists() or not list((root / "cache").rglob("bin"))


MAKING = """
import sys
from pathlib import Path
from writ.workers.environments import Code, provision

code = Code("invoices", "1.4.0", "d" * 64, "work.py", "pinned==1.0\\n", {"work.py": b"x = 1\\n"})
print(provision(code, Path(sys.argv[1])).python)
"""


def test_workers_that_start_together_make_one_environment(index: Path, tmp_path: Path) -> None:
    """Safe under concurrent starts, and whole or not at all: one is killed in the middle, three go on."""
    cache = tmp_path / "cache"
    words = [sys.executable, "-c", MAKING, str(cache)]
    key = digest_of_pins("pinned==1.0\n")
    first = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 60
    while not list(cache.glob(f"environments/.{key}-*/bin")):
        assert time.monotonic() < end, "it never began"
        assert first.poll() is None, "it was made before it could be killed"
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (cache / "environments" / key).exists(), "half an environment is taken for a whole one"
    others = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {other.communicate(timeout=100)[0].strip() for other in others}
    assert said == {str(cache / "environments" / key / "bin" / "python")}
    assert [each.name for each in (cache / "environments").iterdir() if each.is_dir()] == [key], "no rest"
    made = (cache / "environments" / key / "made.json").stat().st_ino
    provision(code(), cache)
    assert (cache / "environments" / key / "made.json").stat().st_ino == made, "it is made once"


def test_what_is_kept_is_checked(index: Path, tmp_path: Path) -> None:
    folder = provision(code(), tmp_path).folder
    (folder / "work.py").write_text("x = 2\n")
    (folder / "more.py").write_text("")
    assert (provision(code(), tmp_path).folder / "work.py").read_text() == "x = 1\n"
    assert not (folder / "more.py").exists()
    with pytest.raises(WorkerError, match=r"what is pinned cannot be installed: .*nothing-of-the-name"):
        provision(code("nothing-of-the-name==1.0\n"), tmp_path)
    assert default_cache().name == "writ"
