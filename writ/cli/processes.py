"""What the commands that run or start processes share."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def writ_command(*words: str) -> list[str]:
    """A command line of this very Writ: same interpreter, whatever the current directory holds."""
    return [sys.executable, "-P", "-m", "writ", *words]


def new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one."""
    if sys.platform == "win32":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


def log_to_stderr(form: str = "text") -> None:
    """Logs go to standard error: warnings on a terminal, more in a file. WRIT_LOG names another level.

    As `json` each line is an object: `at`, `level`, `logger`, `message`, what the record tells of an attempt
    (`tenant`, `queue`, `id`, `task`, `attempt`, `trace`), and `error`, a traceback.
    """
    usual = "WARNING" if sys.stderr.isatty() else "INFO"
    handler = logging.StreamHandler(sys.stderr)
    lines = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    handler.setFormatter(_Json() if form == "json" else logging.Formatter(lines))
    logging.basicConfig(level=os.environ.get("WRIT_LOG", usual).upper(), handlers=[handler])


class _Json(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        told: dict[str, Any] = {
            "at": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "writ", {}),
        }
        if record.exc_text or record.exc_info:
            # What a filter has made of it goes first: it may have taken something out.
            told["error"] = record.exc_text or self.formatException(record.exc_info)  # type: ignore[arg-type]
        return json.dumps(told, default=str)


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
