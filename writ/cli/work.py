"""`writ worker`: a worker process."""

from __future__ import annotations

import dataclasses
import re
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import telemetry
from .dev import traces
from .processes import log_to_stderr, when_stdin_ends
from .provision import drain_when_revoked, provisioned
from .reach import find, target_of, with_dir
from .tags import pairs_of
from .usage import UNREACHABLE, USAGE, CommandError

if TYPE_CHECKING:
    from writ.broker.coding import PayloadCodec
    from writ.workers.runner.limits import AttemptLimits

DEFAULT_QUEUE = "default"
_PATIENCE_S = 2.0
_WEIGHT = re.compile(r"(.+)=([0-9]{1,9})")


def worker(args: Namespace) -> int:
    """Works until it is told to stop; a second signal does not wait for what runs."""
    place = find(args)
    target = target_of(place)
    from writ.broker.clock import SystemClock
    from writ.broker.errors import Unreachable
    from writ.workers import Worker
    from writ.workers.errors import LevelLacking, LoadError, WorkerError

    if args.traces and args.isolate:
        reason = "--traces looks into attempts in the worker's own process, and --isolate has them in others"
        raise CommandError(f"{reason}: leave one of them out", code=USAGE)
    if (args.module is None) is (args.process is None):
        raise CommandError("give MODULE, or --process NAME@REF", ["writ worker --help"], code=USAGE)
    if args.package is not None and args.process is None:
        reason = "--package wants --process NAME@REF: the release that it is"
        raise CommandError(reason, ["writ worker --help"], code=USAGE)
    log_to_stderr(args.log_format)
    telemetry.begin("writ-worker")
    queues = weighted(args.queue or [DEFAULT_QUEUE])
    try:
        held = None if args.process is None else provisioned(args, tuple(queues))
        around = [traces(SystemClock().mono_us)] if args.traces else []
        made = Worker(
            queues,
            args.module if held is None else held.modules,
            around=around,
            concurrency=args.concurrency or 10,
            name=args.name,
            target=target,
            isolate=args.isolate or ("none" if held is None else "plain"),
            environment=None if held is None else held.environment,
            releases=() if held is None else (held.digest,),
            limits=_limits(args),
            codecs=[_codec(each) for each in args.codec],
            labels=pairs_of(args.label, "--label", "gpu=true") or {},
        )
    except LoadError as error:
        raise CommandError(str(error), _hint(args.module or "")) from error
    except LevelLacking as error:
        raise CommandError(str(error), code=USAGE) from error
    except WorkerError as error:
        raise CommandError(str(error)) from error
    if args.until_stdin_ends:
        when_stdin_ends(_PATIENCE_S)
    if args.metrics_port is not None:
        from writ.metrics.of_worker import serve_worker
        from writ.metrics.serving import PortTaken

        try:
            serve_worker(made, args.metrics_port, args.metrics_host)
        except PortTaken as error:
            raise CommandError(str(error)) from error
    if held is not None:
        print(f"worker {made.name} holds {held.named}, release {held.digest}", flush=True)
        drain_when_revoked(args, made, held)
    tasks = ", ".join(sorted(made.tasks))
    print(f"worker {made.name} serves {', '.join(made.queues)} with {tasks}", flush=True)
    try:
        made.run_sync()
    except Unreachable as error:
        where = Path(place.source) if place.source not in ("NATS_URL", "--url") else Path(".writ")
        raise CommandError(str(error), [with_dir("writ up --detach", where)], UNREACHABLE) from error
    except WorkerError as error:
        raise CommandError(str(error), ["writ status"]) from error
    done = dataclasses.asdict(made.counts)
    parts = ", ".join(f"{number} {what}" for what, number in done.items() if number)
    print(f"worker {made.name} has ended: {parts or 'nothing acquired'}", flush=True)
    return 0


def weighted(given: list[str]) -> dict[str, int]:
    """Queues with their weights: `mail`, or `mail=3`, or several of these with commas between."""
    found: dict[str, int] = {}
    for text in given:
        parts = text.split(",")
        if not all(_WEIGHT.fullmatch(part) for part in parts):
            parts = [text]  # a queue's name may have a comma in it
        for part in parts:
            match = _WEIGHT.fullmatch(part)
            found[match[1] if match else part] = int(match[2]) if match else 1
    return found


def _limits(args: Namespace) -> AttemptLimits:
    from writ.workers.runner.limits import AttemptLimits

    names = ("memory_mib", "cpu_s", "file_mib", "open_files", "processes")
    return AttemptLimits(**{name: getattr(args, name) for name in names if getattr(args, name) is not None})


def _codec(place: str) -> PayloadCodec:
    """The codec that stands at `module:name`; a class there is called. Raises CommandError."""
    import importlib
    import sys

    module, colon, name = place.partition(":")
    sys.path.insert(0, "")
    try:
        if not colon:
            raise ValueError("give module:name")
        found: Any = getattr(importlib.import_module(module), name)
        made: Any = found() if callable(found) else found
        if not isinstance(getattr(made, "name", None), str):
            raise TypeError("it has no name, and so is no payload codec")
    except Exception as error:  # whatever a module of the user's does
        raise CommandError(f"--codec {place}: {type(error).__name__}: {error}", code=USAGE) from error
    finally:
        sys.path.remove("")
    codec: PayloadCodec = made
    return codec


def _hint(module: str) -> list[str]:
    if module.endswith(".py") or "/" in module:
        return []
    return [f"writ worker {module.replace('.', '/')}.py            (for a file)"]
