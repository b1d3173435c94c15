"""A user's view of the command line: processes, what they print, how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TASKS = '''
"""Tasks of a user."""
from writ import Context, task


@task
def hello(name: str) -> str:
    return f"hello {name}"


@task
def flaky(context: Context) -> int:
    if context.attempt < 2:
        raise ConnectionError("not yet")
    return context.attempt


@task
def broken(n: int) -> None:
    raise ValueError(f"no good: {n}")
'''


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


class Shell:
    """Runs `writ` in a directory, as a user does. Anything still running at the end is a failure."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[subprocess.Popen[str]] = []
        # A user's own variables must not reach into a test.
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "WRIT_"))
        }
        self.env["PYTHONUNBUFFERED"] = "1"

    def __call__(self, *words: str, input: str = "", timeout: float = 60, **env: str) -> Result:
        """One command, to its end."""
        done = subprocess.run(
            self.command(*words),
            input=input,
            cwd=self.directory,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command in the background."""
        process = subprocess.Popen(
            self.command(*words),
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    @staticmethod
    def command(*words: str) -> list[str]:
        """The installed command, by its module."""
        return [sys.executable, "-P", "-m", "writ", *words]

    def until(self, found: Callable[[], bool], timeout_s: float = 30) -> None:
        """Waits for a condition."""
        until = time.monotonic() + timeout_s
        while not found():
            assert time.monotonic() < until, "it did not come about in time"
            time.sleep(0.02)

    def processes(self) -> list[str]:
        """The command lines of live processes that name something in the directory."""
        found: list[str] = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            found += [" ".join(words)] if any(str(self.directory) in word for word in words) else []
        return found

    def close(self) -> None:
        """Ends what is left of it."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def writ(tmp_path: Path) -> Iterator[Shell]:
    """`writ` in an empty directory of its own, where no node runs."""
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """`writ` beside a running node with a worker for queue `q`; a module shares them."""
    directory = tmp_path_factory.mktemp("node")
    (directory / "tasks.py").write_text(TASKS, encoding="utf-8")
    shell = Shell(directory)
    up = shell("up", "--detach")
    assert up.code == 0, up.err
    worker = shell.start("worker", "tasks.py", "--queue", "q", "--name", "w1")
    yield shell
    worker.terminate()
    out, _ = worker.communicate(timeout=30)
    down = shell("down")
    shell.close()
    assert (worker.returncode, down.code) == (0, 0), out + down.err
