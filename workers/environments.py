"""Environments that are made for releases: a folder of code, and a virtual environment with what it pins.

    <cache>/code/<digest of the release>/files/    the package's files, unpacked
    <cache>/environments/<digest of the pins>/     a virtual environment, with `made.json` in it

Each is made beside its place and renamed into it, under a lock of its own: whoever is killed meanwhile leaves
nothing that another one would take for whole, and of two who start at once one makes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from writ.packages import Package
from writ.packages.project import pins, unpinned

from .errors import WorkerError

log = logging.getLogger("writ.worker")

MADE: Final = "made.json"
INSTALL_WAIT_S: Final = 900.0
_GROUND: Final = "environments"


class Environment(NamedTuple):
    """Where a release runs: its interpreter, its own folder, and the path that modules are looked for on."""

    python: Path
    folder: Path
    path: tuple[str, ...]


class _Made(msgspec.Struct, frozen=True):
    """What stands in an environment that is whole."""

    requirements: str
    python: str
    path: tuple[str, ...]


def default_cache() -> Path:
    """Where environments are kept, unless a worker is told otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "writ"


def digest_of_pins(requirements: str) -> str:
    """The key of an environment: what is pinned, for this interpreter on this machine."""
    about = [sys.implementation.cache_tag, platform.python_version(), sysconfig.get_platform()]
    text = "\n".join([*about, sys.base_prefix, *sorted(pins(requirements))])
    return hashlib.sha256(text.encode()).hexdigest()


def provision(package: Package, cache: Path) -> Environment:
    """The environment of a release, made where it is not there. Raises WorkerError."""
    named = f"{package.manifest.name}@{package.manifest.version}"
    loose = unpinned(package.requirements)
    if loose:
        raise WorkerError(
            f"{named} does not pin {loose[0][:200]!r} to one version; lock and publish it again"
        )
    key, cache = digest_of_pins(package.requirements), cache.absolute()
    place, folder = cache / _GROUND / key, cache / "code" / package.digest / "files"
    try:
        with _locked(cache / _GROUND / f"{key}.lock"):
            made = _made(place, package.requirements)
            if made is None:
                log.info("an environment is made for %s: %s", named, place)
                made = _whole(place, lambda root: _install(root, place, package.requirements))
        with _locked(cache / "code" / f"{package.digest}.lock"):
            if not _holds(folder, package.files):
                shutil.rmtree(folder.parent, ignore_errors=True)  # with what a killed one left there
                package.unpack(folder)
    except OSError as error:
        raise WorkerError(f"no environment for {named} in {cache}: {error}") from error
    return Environment(_python(place), folder, (str(folder), *made.path))


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Holds a lock among processes, which ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(place: Path, make: Callable[[Path], _Made]) -> _Made:
    """Makes a folder beside its place, and renames it there; what killed ones left there goes first."""
    for left in place.parent.glob(f".{place.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)  # what was there is not whole
    root = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        made = make(root)
        os.rename(root, place)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return made


def _python(place: Path) -> Path:
    return place / "bin" / "python"


def _made(place: Path, requirements: str) -> _Made | None:
    """What is told of an environment; None where there is none that is whole."""
    try:
        made = msgspec.json.decode((place / MADE).read_bytes(), type=_Made)
    except (OSError, msgspec.MsgspecError):
        return None
    whole = sorted(pins(made.requirements)) == sorted(pins(requirements)) and _python(place).exists()
    return made if whole else None


def _install(root: Path, place: Path, requirements: str) -> _Made:
    """A virtual environment with what is pinned, and nothing besides."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(root)], "a virtual environment cannot be made")
    python = str(_python(root))
    if pins(requirements):
        listed = root / "requirements.txt"
        listed.write_text(requirements)
        uv = shutil.which("uv")
        ahead = [uv, "pip", "install", "--python", python]
        if uv is None:
            ahead = [
                sys.executable,
                "-m",
                "pip",
                "--python",
                python,
                "--disable-pip-version-check",
                "install",
            ]
        _run([*ahead, "--no-deps", "--quiet", "-r", str(listed)], "what is pinned cannot be installed")
    said = _run([python, "-I", "-c", "import json, sys; print(json.dumps(sys.path))"], "it does not run")
    moved = [path.replace(str(root), str(place), 1) for path in json.loads(said)]
    for script in (root / "bin").iterdir():
        _move(script, str(root), str(place))
    made = _Made(requirements, platform.python_version(), tuple(moved))
    (root / MADE).write_bytes(msgspec.json.encode(made))
    return made


def _move(script: Path, root: str, place: str) -> None:
    """Has a script name the interpreter where that will be."""
    if script.is_symlink() or not script.is_file():
        return
    text = script.read_bytes()
    if root.encode() in text:
        script.write_bytes(text.replace(root.encode(), place.encode()))


def _run(words: list[str | None], fails: str) -> str:
    """What a command says. Raises WorkerError with the last of its words."""
    try:
        done = subprocess.run(
            [word for word in words if word is not None],
            capture_output=True,
            text=True,
            timeout=INSTALL_WAIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"{fails} within {INSTALL_WAIT_S:g} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise WorkerError(f"{fails}: {said[-1] if said else f'status {done.returncode}'}")
    return done.stdout


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether a folder has these files as they are, and no other module."""
    try:
        same = all((folder / path).read_bytes() == content for path, content in files.items())
    except OSError:
        return False
    found = {str(each.relative_to(folder)) for each in folder.rglob("*.py")}
    return same and found <= files.keys()
