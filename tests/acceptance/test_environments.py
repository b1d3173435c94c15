"""Environments of releases: made once, whole or not at all, of what was pinned, for checked code alone."""

from __future__ import annotations

import asyncio
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

from writ.broker.connect import Target, connect
from writ.broker.filed import FiledObjects
from writ.broker.filing import JetStreamFiling
from writ.broker.jwt import KeyKind, Signer
from writ.packages import Package, build, open_package
from writ.packages.archive import unzipped, zipped
from writ.workers.environments import default_cache, digest_of_pins, provision
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


PROJECT = """\
name = "invoices"
version = "{version}"
modules = ["work", "more.tasks"]
files = ["**/*.py"]
"""
SIGNER = Signer(KeyKind.USER, bytes(range(32)))


def project(folder: Path, version: str = "1.4.0", twice: str = "2 * n") -> Path:
    """The folder of a process, whose tasks stand in two modules."""
    for path, text in {
        "process.toml": PROJECT.format(version=version),
        "requirements.lock": "pinned==1.0\n",
        "work.py": TASKS,
        "helpers.py": f"def twice(n):\n    return {twice}\n",
        "more/__init__.py": "",
        "more/tasks.py": "from writ import task\n\n@task\ndef other() -> str:\n    return 'other'\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def package(folder: Path) -> Package:
    return open_package(build(project(folder), SIGNER.public, SIGNER.sign))


def published(place: Place, version: str = "1.4.0", twice: str = "2 * n") -> str:
    """Publishes a release; its digest. Its package is left in `<version>.writpkg`."""
    folder = project(place.root / f"sources-{version}", version, twice)
    said = place.json("publish", "--folder", str(folder), "--out", str(place.root / f"{version}.writpkg"))
    return str(said["digest"])


@pytest.mark.parametrize("level", ["plain", "landlock"])
def test_attempts_run_in_the_environment_of_their_release(own_place: Place, index: Path, level: str) -> None:
    """Must hold: `writ worker --process NAME@VERSION` makes a virtual environment from the package's pinned
    requirements, and attempts run in it, without the worker's own packages.
    """
    root = own_place.root
    published(own_place)
    (root / "work.py").write_text("raise RuntimeError('it stands where the worker was started')")
    options = ("--process", "invoices@1.4.0", "--cache", "cache", "--isolate", level)
    with own_place.worker(*options, "--queue", "q"):
        wanted = ("--process", "invoices@1.4.0", "--wait")
        said = json.loads(own_place.writ("submit", "q", "where", *wanted).stdout)
        other = json.loads(own_place.writ("submit", "q", "other", *wanted).stdout)
    (made,) = [each for each in (root / "cache" / "environments").iterdir() if each.is_dir()]
    assert said == [7, 4, str(made), False]
    assert other == "other"


def test_a_worker_serves_the_release_that_its_process_names(own_place: Place, index: Path) -> None:
    """Must hold: jobs that name a release are run by its code, and by no other; after a rollback the next
    jobs run the other release's code.
    """
    cache = str(own_place.root / "cache")
    first = published(own_place, "1.4.0", "2 * n")
    own_place.writ("release", "promote", "invoices@1.4.0", "--reason", "it passed")
    published(own_place, "1.5.0", "3 * n")

    def told(process: str) -> int:
        return int(
            json.loads(own_place.writ("submit", "q", "where", "--process", process, "--wait").stdout)[1]
        )

    def worker(process: str) -> Any:
        return own_place.worker("--process", process, "--cache", cache, "--queue", "q")

    with worker("invoices@live"), worker("invoices@candidate"):
        assert [told("invoices@live"), told("invoices@1.5.0")] == [4, 6]
        own_place.writ("release", "promote", "invoices@1.5.0", "--reason", "it passed, too")
        assert [told("invoices@live") for _ in range(3)] == [6] * 3
        own_place.writ("release", "rollback", "invoices", "--reason", "wrong totals")
        assert [told("invoices@live") for _ in range(3)] == [4] * 3
        assert told(f"invoices@{first}") == 4
        assert told("invoices@previous") == 6


async def put_in_store(place: Place, digest: str, content: bytes) -> None:
    """What somebody does who has the broker's own keys: the object of that name holds something else."""
    creds = place.root / ".writ" / "keys" / "log.creds"
    target = Target(place.json("env")["NATS_URL"], creds)
    link = await connect(target, "intruder", inbox_prefix="_INBOX")
    try:
        filing = JetStreamFiling(link, "writ-packages-default", 1 << 30)
        store = FiledObjects(filing, "writ-packages-default", lambda: "intruder")
        assert await store.names(), "the packages are in the broker's object store"
        await store.put(digest, (content,))
    finally:
        await link.close()


def test_a_package_that_is_not_its_release_is_refused(own_place: Place, index: Path) -> None:
    """Must hold: a tampered package is refused by the worker, from a file and from the store; so is one that
    another key has signed, and one of another release.
    """
    root = own_place.root
    first, second = published(own_place), published(own_place, "1.5.0")
    at_hand = root / "1.4.0.writpkg"

    def refused(process: str, *options: str) -> str:
        words = ("--process", process, "--cache", str(root / "cache"), "--queue", "q", *options)
        done = own_place.writ("worker", *words, check=False)
        assert done.returncode == 1, done.stderr
        return done.stderr

    tampered = root / "tampered.writpkg"
    parts = unzipped(at_hand.read_bytes())
    evil = zipped({**parts, "code/helpers.py": b"def twice(n):\n    return 7 * n\n"})
    tampered.write_bytes(evil)
    changed = "code/helpers.py is not the file that was packaged"
    assert changed in refused("invoices@1.4.0", "--package", str(tampered))
    signed = build(root / "sources-1.4.0", SIGNER.public, SIGNER.sign)
    tampered.write_bytes(signed)
    assert open_package(signed).digest == first
    assert "whose signature does not count" in refused("invoices@1.4.0", "--package", str(tampered))
    assert f"it is release {first}, and not {second}" in refused(
        f"invoices@{second}", "--package", str(at_hand)
    )
    asyncio.run(put_in_store(own_place, first, evil))
    said = refused("invoices@1.4.0")
    assert "the package of invoices@1.4.0 is refused" in said
    assert changed in said
    assert "no release 9.9.9" in refused("invoices@9.9.9")
    assert not (root / "cache").exists(), "nothing of it was unpacked"


def test_a_worker_of_a_revoked_release_ends_and_another_does_not_start(own_place: Place, index: Path) -> None:
    published(own_place)
    options = ("--process", "invoices@1.4.0", "--cache", str(own_place.root / "cache"), "--queue", "q")
    with own_place.worker(*options) as process:
        asked = ("submit", "q", "other", "--process", "invoices@1.4.0", "--wait")
        assert json.loads(own_place.writ(*asked).stdout) == "other"
        own_place.writ("release", "revoke", "invoices@1.4.0", "--reason", "it leaks")
        assert process.wait(30) == 0
    assert "invoices@1.4.0 is revoked: it leaks" in (own_place.root / "worker.log").read_text()
    done = own_place.writ("worker", *options, check=False)
    assert done.returncode == 1
    assert "invoices@1.4.0 is revoked, and no lease is given for it: it leaks" in done.stderr


MAKING = """
import sys
from pathlib import Path
from writ.packages import open_package
from writ.workers.environments import provision

print(provision(open_package(Path(sys.argv[2])), Path(sys.argv[1])).python)
"""


def test_workers_that_start_together_make_one_environment(index: Path, tmp_path: Path) -> None:
    """Safe under concurrent starts, and whole or not at all: one is killed in the middle, three go on."""
    cache = tmp_path / "cache"
    content = build(project(tmp_path / "invoices"), SIGNER.public, SIGNER.sign)
    (tmp_path / "invoices.writpkg").write_bytes(content)
    words = [sys.executable, "-c", MAKING, str(cache), str(tmp_path / "invoices.writpkg")]
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
    provision(open_package(content), cache)
    assert (cache / "environments" / key / "made.json").stat().st_ino == made, "it is made once"


def test_what_is_kept_is_checked(index: Path, tmp_path: Path) -> None:
    given, cache = package(tmp_path / "invoices"), tmp_path / "cache"
    folder = provision(given, cache).folder
    (folder / "work.py").write_text("x = 2\n")
    (folder / "besides.py").write_text("")
    assert (provision(given, cache).folder / "work.py").read_text() == TASKS
    assert not (folder / "besides.py").exists()
    with pytest.raises(WorkerError, match=r"what is pinned cannot be installed: .*nothing-of-the-name"):
        provision(given._replace(requirements="nothing-of-the-name==1.0\n"), cache)
    with pytest.raises(WorkerError, match="'pinned>=1' to one version"):
        provision(given._replace(requirements="pinned>=1\n"), cache)
    assert default_cache().name == "writ"
