"""`writ submit`: one job, or a file of them."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from . import telemetry
from .output import count, next_steps, on_terminal, paint, print_json
from .prices import microusd
from .reach import connected
from .tags import pairs_of, tags_of
from .usage import CommandError, UsageError, tell

if TYPE_CHECKING:
    from writ.broker.client import Client, JobHandle
    from writ.schemas.queries import JobView

_WAITS_AT_ONCE: Final = 64
_POSITION_S: Final = 5.0
_HELP: Final = ["writ submit --help"]


def submit(args: Namespace) -> int:
    """Submits, and with --wait stays for the results."""
    telemetry.begin("writ-submit")
    queue, *words = args.words
    if len(words) > 2:
        raise UsageError(f"{words[2]!r} is one word too many; quote INPUT as one", _HELP)
    task, given = [*words, None, None][:2]
    if args.file is not None:
        if given is not None or args.id is not None:
            raise UsageError("--file brings its own inputs and ids", _HELP)
        jobs = read_jobs(args.file, {"task": task} | _options(args))
        return asyncio.run(_many(args, queue, jobs))
    if task is None:
        raise UsageError("TASK is missing: which task shall run?", ["writ submit QUEUE TASK '{\"a\": 1}'"])
    job = {"task": task, "input": _input(given)} | _options(args)
    return asyncio.run(_one(args, queue, job))


# --- what is submitted ----------------------------------------------------------------------------------


def _input(given: str | None) -> msgspec.Raw:
    """The input as the JSON that was given. Raises UsageError."""
    text = sys.stdin.read() if given == "-" else given
    if text is None:
        return msgspec.Raw(b"null")
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"INPUT is not JSON: {error}", ['writ submit QUEUE TASK \'{"name": "value"}\'']
        ) from error
    return msgspec.Raw(text.strip().encode())


def _options(args: Namespace) -> dict[str, Any]:
    """The options that were given, as fields of a submit."""
    retry = _retry(args)
    options = {
        "id": args.id,
        "priority": args.priority,
        "delay_s": args.delay,
        "not_before": args.not_before,
        "retry": retry,
        "lease_s": args.lease,
        "attempt_timeout_s": args.attempt_timeout,
        "job_timeout_s": args.job_timeout,
        "expires_in_s": args.expires_in,
        "fairness_key": args.fairness_key,
        "concurrency_key": args.concurrency_key,
        "unique_key": args.unique_key,
        "approval": _approval(args),
        "after": [_key(args, each) for each in args.after or ()] or None,
        "on_dead": args.on_dead,
        "input_from": _input_from(args),
        "parent": None if args.parent is None else _key(args, args.parent),
        "on_parent_end": args.on_parent_end,
        "batch": args.batch,
        "tags": tags_of(args.tag),
        "requires": pairs_of(args.requires, "--requires", "gpu=true"),
        "data_subject": args.data_subject,
        "reserve_microusd": None if args.reserve is None else microusd(args.reserve, "--reserve"),
        "process": args.process,
    }
    return {name: value for name, value in options.items() if value is not None}


def _key(args: Namespace, job: str) -> str:
    """The key of a job; a bare id is one of the same queue."""
    return job if "~" in job else f"{args.words[0]}~{job}"


def _input_from(args: Namespace) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for each in args.input_from or ():
        name, separator, job = each.partition("=")
        if not (name and separator and job):
            raise UsageError(f"--input-from {each!r} is not FIELD=JOB", ["--input-from total=billing~sum-7"])
        found[name] = _key(args, job)
    return found or None


def _approval(args: Namespace) -> dict[str, Any] | None:
    given = {"timeout_s": args.approval_timeout, "on_timeout": args.on_timeout}
    approval = {name: value for name, value in given.items() if value is not None}
    return approval if approval or args.approval else None


def _retry(args: Namespace) -> dict[str, Any] | None:
    try:
        policy = msgspec.json.decode(args.retry or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"--retry is not a JSON object: {error}", _HELP) from error
    if args.max_attempts is not None:
        policy["max_attempts"] = args.max_attempts
    return policy or None


def read_jobs(name: str, defaults: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Each line's number and job. Raises UsageError for what is no job."""
    if name == "-":
        text = sys.stdin.read()
    else:
        try:
            with open(name, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--file {name}: {getattr(error, 'strerror', None) or error}") from error
    shape = 'each line is an object such as {"task": "hello", "input": {"name": "world"}}'
    jobs: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), 1):  # other ends of lines may stand in JSON's strings
        if line.strip():
            try:
                job = msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise UsageError(f"{name}, line {number}: {error}", [shape]) from error
            job = {key: value for key, value in defaults.items() if value is not None} | job
            if "task" not in job:
                raise UsageError(f"{name}, line {number}: no task", [shape])
            jobs.append((number, job))
    if not jobs:
        raise UsageError(f"{name} holds no job", [shape])
    return jobs


# --- one ------------------------------------------------------------------------------------------------


async def _one(args: Namespace, queue: str, job: dict[str, Any]) -> int:
    async with connected(args) as client:
        handle = await client.submit(queue, **job)
        if not args.wait:
            _say_submitted(args, handle, await _position(client, args))
            return 0
        try:
            with _waiting(f"waiting for job {handle.id}"):
                output = await client.result(handle, timeout_s=args.timeout)
        except Exception as error:
            return await _without_output(args, client, handle, error)
        print_json(await client.job(handle.id, queue) if args.json else output)
        return 0


def _document(handle: JobHandle, position: int | None) -> dict[str, Any]:
    return {"id": handle.id, "queue": handle.queue, "existing": handle.existing, "position": position}


async def _position(client: Client, args: Namespace) -> int | None:
    """A log sequence that covers what was submitted, for `--after`; None where none can be had now.

    The submit is on disk all the same, and is taken in as soon as somebody leads.
    """
    from writ.broker.errors import Refused, WireError

    if not args.json:
        return None
    try:
        return await client.position(timeout_s=_POSITION_S)
    except (Refused, WireError):
        return None


def _say_submitted(args: Namespace, handle: JobHandle, position: int | None) -> None:
    if args.json:
        print_json(_document(handle, position))
    elif on_terminal():
        done = paint("submitted", "green")
        words = f"{done} job {paint(handle.id, 'bold')} to queue {handle.queue}"
        if handle.existing:
            words = f"job {paint(handle.id, 'bold')} of queue {handle.queue} has that unique key already"
        print(words)
        next_steps(f"writ job {handle.id}")
    else:
        print(handle.id)


async def _without_output(args: Namespace, client: Client, handle: JobHandle, error: Exception) -> int:
    """A job that was waited for has no output: dead, cancelled, refused or late."""
    from writ.broker.errors import JobEnded

    if isinstance(error, TimeoutError):
        raise CommandError(str(error), [f"writ job {handle.id} --queue {handle.queue}"]) from error
    if isinstance(error, JobEnded) and args.json:
        print_json(await client.job(handle.id, handle.queue))
    raise error


def _waiting(text: str) -> AbstractContextManager[object]:
    """A sign of life while nothing can be shown yet."""
    if not on_terminal():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


# --- many -----------------------------------------------------------------------------------------------


async def _many(args: Namespace, queue: str, jobs: Sequence[tuple[int, dict[str, Any]]]) -> int:
    from writ.broker.errors import SubmitRefused, WritError

    async with connected(args) as client:
        with suppress(WritError):  # else its lanes are left to those that have a unique key
            await client.lanes(queue, timeout_s=_POSITION_S)
        try:
            handles = await client.submit_many(queue, [job for _, job in jobs])
        except SubmitRefused as error:
            index = error.rejection.index
            if index is None:
                raise
            raise UsageError(f"{args.file}, line {jobs[index][0]}: {error}; nothing was submitted") from error
        if args.wait:
            return await _wait_for_many(args, client, queue, handles)
        position = await _position(client, args)
    if args.json:
        print_json([_document(handle, position) for handle in handles])
    elif on_terminal():
        there = sum(handle.existing is True for handle in handles)
        more = f"; for {there:,} a job that was there stands" if there else ""
        print(f"{paint('submitted', 'green')} {count(len(handles), 'job')} to queue {queue}{more}")
        next_steps(f"writ jobs --queue {queue} --watch")
    else:
        for handle in handles:
            print(handle.id)
    return 0


async def _wait_for_many(args: Namespace, client: Client, queue: str, handles: Sequence[JobHandle]) -> int:
    """Waits for each, at most so many at a time; then says how they ended."""
    loop = asyncio.get_running_loop()
    until = None if args.timeout is None else loop.time() + args.timeout
    room = asyncio.Semaphore(_WAITS_AT_ONCE)
    failed: list[str] = []
    with _Progress(len(handles)) as advance:

        async def wait(handle: JobHandle) -> None:
            async with room:
                left = None if until is None else max(0.0, until - loop.time())
                try:
                    await client.result(handle, timeout_s=left)
                except Exception as error:
                    failed.append(str(error))
                advance()

        await asyncio.gather(*(wait(handle) for handle in handles))
    if args.json:
        print_json(await _views(client, queue, handles))
    else:
        print(f"{len(handles) - len(failed)} completed, {len(failed)} not")
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        tell(f"{failed[0]}{more}", [f"writ jobs --queue {queue}"])
    return 1 if failed else 0


async def _views(client: Client, queue: str, handles: Sequence[JobHandle]) -> list[JobView]:
    from .fetch import all_jobs

    wanted = {handle.id for handle in handles}
    return [job for job in reversed(await all_jobs(client, queue=queue)) if job.id in wanted]


class _Progress:
    """A bar on a terminal, nothing in a pipe."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar: Any = None

    def __enter__(self) -> Callable[[], None]:
        if not sys.stderr.isatty():
            return lambda: None
        from .progress import bar

        self._bar = bar(stderr=True)
        self._bar.start()
        task = self._bar.add_task("waiting", total=self._total)
        return lambda: self._bar.advance(task)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
