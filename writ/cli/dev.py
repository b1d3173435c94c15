"""`writ dev`: a worker that starts again when the code changes, and tells of each attempt."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from .processes import writ_command
from .usage import CommandError

if TYPE_CHECKING:
    from writ.workers import Context
    from writ.workers.tasks import Around

_DRAIN_S = 3.0
"""A worker with old code may go on so long; then its leases are released at once."""


def dev(args: Namespace) -> int:
    """Runs a worker beside a watch on the folder of its module, until it is told to stop."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError as error:
        raise CommandError(
            "writ dev watches files with watchfiles, which is not installed",
            ["pip install 'writ-orchestrator[reload]'", f"writ worker {args.module} --traces"],
        ) from error
    folder = watched_folder(args.module)
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    print(f"watching {folder} for changes of Python files; Ctrl-C ends", flush=True)
    worker = _start(args)
    try:
        for changes in watch(folder, watch_filter=PythonFilter(), stop_event=stop, raise_interrupt=False):
            names = sorted({Path(path).name for _, path in changes})
            print(f"changed: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}", flush=True)
            _stop(worker)
            worker = _start(args)
    finally:
        _stop(worker)
    return 0


def watched_folder(module: str) -> Path:
    """A file's own folder; of a module's name the current one, from where it is imported."""
    is_file = module.endswith(".py") or "/" in module
    return Path(module).resolve().parent if is_file else Path.cwd()


def _start(args: Namespace) -> subprocess.Popen[bytes]:
    words = ["worker", args.module, "--traces", "--until-stdin-ends"]
    for queue in args.queue or ():
        words += ["--queue", queue]
    for name in ("concurrency", "url", "creds", "tenant", "principal", "dir"):
        value = getattr(args, name, None)
        if value is not None:
            words += [f"--{name}", str(value)]
    # Python takes bytecode that it has written for that of any file of the same size and second: a change of
    # one figure that comes so soon would not be run.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    # In a session of its own, so that Ctrl-C reaches this process alone, which ends it in order.
    worker = subprocess.Popen(
        writ_command(*words), stdin=subprocess.PIPE, start_new_session=True, env=environment
    )
    threading.Thread(target=_tell_of_end, args=(worker,), daemon=True).start()
    return worker


def _tell_of_end(worker: subprocess.Popen[bytes]) -> None:
    code = worker.wait()
    if code > 0:
        print(f"the worker ended with exit code {code}; it starts again with the next change", flush=True)


def _stop(worker: subprocess.Popen[bytes]) -> None:
    """Drains a worker, hurries it, ends it."""
    for signal_ in (worker.terminate, worker.terminate, worker.kill):
        if worker.poll() is None:
            signal_()
            try:
                worker.wait(_DRAIN_S)
            except subprocess.TimeoutExpired:
                continue
        break
    if worker.stdin is not None:
        worker.stdin.close()


def traces(clock_us: Callable[[], int]) -> Around:
    """What stands around tasks to tell of each attempt, and of what it raised from the user's code on."""
    from rich.console import Console
    from rich.traceback import Traceback

    from writ import workers
    from writ.workers.steps import Sleep

    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    ours = [str(Path(workers.__file__).parent), contextlib.__file__]

    @contextlib.contextmanager
    def around(ctx: Context) -> Generator[None, None, None]:
        began_us = clock_us()
        where = f"{ctx.queue}/{ctx.id} {ctx.task} attempt {ctx.attempt}"

        def say(what: str) -> None:
            console.print(f"{where} {what} after {(clock_us() - began_us) / 1_000:.1f} ms", markup=False)

        try:
            yield
        except Sleep:
            say("waits")
            raise
        except Exception as error:
            say(f"failed with {type(error).__name__}")
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("writ."):
                trace = trace.tb_next  # it begins in user code
            console.print(Traceback.from_exception(type(error), error, trace, suppress=ours, max_frames=30))
            raise
        else:
            say("is done")

    return around
