"""Commands that a node runs beside itself are waited for, and end with it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from writ.children import apart
from writ.children.share import YIELDING

_WAITS_TO_YIELD = """
import os, pathlib, sys, time
session, more = pathlib.Path("/proc/self/autogroup"), int(sys.argv[1])
wanted = os.getpriority(os.PRIO_PROCESS, os.getppid()) + more
while os.getpriority(os.PRIO_PROCESS, 0) != wanted:
    time.sleep(0.01)
while session.exists() and session.read_text() and not session.read_text().endswith(f" nice {more}\\n"):
    time.sleep(0.01)
"""
_WAITS_FOR_EVER = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


def said_in(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def runs(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are a program and its arguments, in place of a command of Writ."""

    def command(*words: str) -> list[str]:
        return [sys.executable, "-c", *words[:-2]]

    monkeypatch.setattr(apart, "writ_command", command)


@pytest.mark.usefixtures("program")
async def test_it_tells_the_code_and_what_was_printed() -> None:
    code, said = await apart.run_apart("print('x' * 300_000); raise SystemExit(3)")
    assert (code, said) == (3, b"x" * 300_000 + b"\n")


@pytest.mark.usefixtures("program")
async def test_it_yields_to_what_the_node_waits_for() -> None:
    async with asyncio.timeout(60):
        code, _ = await apart.run_apart(_WAITS_TO_YIELD, str(YIELDING))
    assert code == 0


@pytest.mark.usefixtures("program")
async def test_it_ends_with_whoever_waits_for_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    running = asyncio.create_task(apart.run_apart(_WAITS_FOR_EVER, str(told)))
    async with asyncio.timeout(60):
        while not (pid := said_in(told)):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
    assert runs(pid)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not runs(pid)
