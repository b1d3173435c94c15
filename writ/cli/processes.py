"""What the commands that run or start processes share."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path


def writ_command(*words: str) -> list[str]:
    """A command line of this very Writ: same interpreter, whatever the current directory holds."""
    return [sys.executable, "-P", "-m", "writ", *words]


def new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one."""
    if sys.platform == "win32":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


def log_to_stderr() -> None:
    """Logs go to standard error: warnings on a terminal, more in a file. WRIT_LOG names another level."""
    usual = "WARNING" if sys.stderr.isatty() else "INFO"
    logging.basicConfig(
        level=os.environ.get("WRIT_LOG", usual).upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )


def when_stdin_ends(patience_s: float) -> None:
    """Has this process told to stop when its standard input ends: when whoever started it is gone.

    It is told again after `patience_s` seconds, and ends at once after as many again.
    """

    def watch() -> None:
        while os.read(0, 4096):
            pass
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(patience_s)
        os._exit(1)

    threading.Thread(target=watch, name="writ-stdin", daemon=True).start()


def tail(path: Path, offset: int = 0, lines: int = 20) -> str:
    """The last lines of a log, from byte `offset` on."""
    try:
        said = path.read_bytes()[offset:]
    except OSError:
        said = b""
    return "\n".join(said.decode(errors="replace").splitlines()[-lines:]) or "(it said nothing)"
