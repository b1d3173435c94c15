"""`writ init`, `writ lock`, `writ run`: a process as a folder on this machine."""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .dev import traces
from .fetch import all_records
from .output import count, next_steps, print_json
from .timeline import steps_of, timeline_lines
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.packages import Project
    from writ.schemas.queries import JobView
    from writ.testing import System
    from writ.workers import Task

_LOOK_S = 0.05
_QUEUE = "local"


def init(args: Namespace) -> int:
    """Writes a project that runs and has tests."""
    from writ.packages.manifest import Kind
    from writ.packages.project import Project, ProjectError
    from writ.packages.scaffold import new_project

    try:
        msgspec.convert({"name": args.name, "version": "0.1.0"}, Project)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{args.name!r} cannot name a process: letters, digits, - and _, a letter first", []
        ) from error
    folder = Path(args.folder or args.name)
    try:
        written = new_project(folder, args.name, Kind(args.type))
    except (ProjectError, OSError) as error:
        raise CommandError(str(error)) from error
    if args.json:
        print_json([str(path) for path in written])
        return 0
    for path in written:
        print(path)
    next_steps(f"cd {folder}", "writ run --entry main --input @input.json", "python -m pytest")
    return 0


def lock(args: Namespace) -> int:
    """Writes down which versions the dependencies come to."""
    from writ.packages.lock import lock as write_lock
    from writ.packages.project import ProjectError

    folder = Path(args.folder)
    project = project_in(folder)
    try:
        number = write_lock(folder, project)
    except (ProjectError, OSError) as error:
        raise CommandError(str(error)) from error
    if args.json:
        print_json({"pinned": number})
    else:
        print(f"{folder / 'requirements.lock'} pins {count(number, 'distribution')}")
    return 0


def project_in(folder: Path) -> Project:
    """The project of a folder. Raises CommandError."""
    from writ.packages import ProjectError, read_project

    try:
        return read_project(folder)
    except ProjectError as error:
        raise CommandError(str(error)) from error


# --- run ------------------------------------------------------------------------------------------------


def run(args: Namespace) -> int:
    """One job of an entry point, on a whole system in this process. Exits 1 unless it completes."""
    from writ.testing.loop import RealLoop
    from writ.testing.loop import run as run_on

    given = _input(args.input)
    folder = Path(args.folder).resolve()
    project = project_in(folder)
    task = project.entry_points.get(args.entry)
    if task is None:
        known = ", ".join(sorted(project.entry_points)) or "none"
        raise CommandError(f"process.toml has no entry point {args.entry!r}; it has {known}")
    os.chdir(folder)
    tasks = _tasks(project)
    if task not in [each.name for each in tasks]:
        names = ", ".join(sorted(each.name for each in tasks))
        reason = f"entry point {args.entry} is the task {task}, which no module of it defines"
        raise CommandError(f"{reason}; they define {names}")
    view = run_on(_run(args, tasks, task, given), RealLoop)
    if args.json:
        print_json({"state": view.state, "output": view.output, "error": view.error})
    elif view.state == "completed":
        print(msgspec.json.encode(view.output).decode())
    return 0 if view.state == "completed" else 1


def _tasks(project: Project) -> list[Task[..., object]]:
    from writ.workers import load
    from writ.workers.errors import LoadError

    sys.path.insert(0, str(Path.cwd()))
    try:
        return [task for module in project.modules for task in load(module)]
    except LoadError as error:
        raise CommandError(str(error)) from error


def _input(given: str | None) -> msgspec.Raw:
    """JSON as given, or from the file behind an @. Raises UsageError."""
    try:
        text = Path(given[1:]).read_text("utf-8") if given and given.startswith("@") else given or "null"
        msgspec.json.decode(text)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise UsageError(f"--input is not JSON: {error}", ["writ run --input @input.json"]) from error
    return msgspec.Raw(text.strip().encode())


async def _run(args: Namespace, tasks: list[Task[..., object]], task: str, given: msgspec.Raw) -> JobView:
    from writ.broker.clock import SystemClock
    from writ.schemas.policy import Retry
    from writ.testing import System

    around = [] if args.json else [traces(SystemClock().mono_us)]
    start = datetime.datetime.now(datetime.UTC)
    async with System(tasks, _QUEUE, start=start, around=around) as system:
        job = await system.client.submit(_QUEUE, task, given, retry=Retry(max_attempts=1))
        await system.client.accepted(job)
        return await _followed(args, system, job.id)


async def _followed(args: Namespace, system: System, id: str) -> JobView:
    """The job when it has ended; what happens to it is told as it happens."""
    from writ.schemas.lifecycle import TERMINAL

    client, shown = system.client, 0
    while True:
        view = await client.job(id, _QUEUE)
        if not args.json:
            records = await all_records(client, _QUEUE, id)
            lines = list(timeline_lines(steps_of(view.tenant, _QUEUE, id, records)))
            for line in lines[shown:]:
                print(line, flush=True)
            shown = len(lines)
        if view.state in TERMINAL:
            return view
        if view.wait is not None and view.wait.reason == "approval":
            if not args.yes:
                hint = f"writ run --entry {args.entry} --yes      (says yes to all)"
                raise CommandError("it waits for a person's approval", [hint])
            await client.approve(id, _QUEUE, "writ run --yes")
        await asyncio.sleep(_LOOK_S)
