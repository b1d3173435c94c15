"""`writ replay` of a job, a queue or a tenant: at a moment, between two, verified, exported, or what if."""

from __future__ import annotations

import datetime
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .fetch import states_of
from .output import Table, count, fields, next_steps, paint, print_json, state
from .queues import flat, shown
from .stretches import key_in, read_bundle, read_log
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.orchestrator.replay.history import Step
    from writ.orchestrator.replay.picture import Change, Picture, Scope
    from writ.orchestrator.replay.stretch import Point, Stretch
    from writ.orchestrator.replay.verify import Report
    from writ.schemas.lifecycle import Job
    from writ.schemas.queries import JobView

    from .past import Told

_LISTED_MAX: Final = 20


def point_of(text: str, option: str) -> Point:
    """The moment that an option names. Raises UsageError."""
    from writ.orchestrator.replay.stretch import Point

    if text.isdigit():
        return Point(seq=int(text))
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is neither a log sequence nor an RFC 3339 time",
            [f"writ replay ID {option} 120", f"writ replay ID {option} 2026-01-31T12:00:00Z"],
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return Point(at=since // datetime.timedelta(microseconds=1))


# --- at a moment, and between two -----------------------------------------------------------------------


def look(args: Namespace) -> int:
    """A queue or a tenant at a moment, the last one if none is given, or what changed between two."""
    moments = points(args)
    stretch = read_log(args)
    return _show_points(args, stretch, _scope(args, stretch), moments)


def look_at_job(args: Namespace, told: Told) -> int:
    """One job at a moment, or what changed of it between two."""
    from writ.orchestrator.replay.picture import Scope

    moments = points(args)
    if args.diff:
        return _show_points(args, told.stretch, Scope(told.stretch.tenant, None, told.key), moments)
    from msgspec.structs import asdict

    from writ.orchestrator.replay.history import at_point

    job = at_point(told.steps, moments[0].seq, moments[0].at)
    if args.json:
        print_json({"id": told.job.id, "queue": told.job.queue, "at": args.at, "job": job and asdict(job)})
    elif job is not None:
        name = paint(told.job.id, "bold")
        print(f"At {args.at} job {name} was {state(job.state.value)}: {standing(job)}")
    if job is None:
        raise CommandError(f"job {told.job.id} did not exist at {args.at}", [f"writ replay {told.job.id}"])
    return 0


def points(args: Namespace) -> list[Point]:
    """The moments that the options name; the end where they name none. Raises UsageError."""
    from writ.orchestrator.replay.stretch import END

    if args.diff:
        return [point_of(text, "--diff") for text in args.diff]
    return [END if args.at is None else point_of(args.at, "--at")]


def _scope(args: Namespace, stretch: Stretch) -> Scope:
    from writ.orchestrator.replay.picture import Scope

    return Scope(stretch.tenant, args.queue)


def _show_points(args: Namespace, stretch: Stretch, scope: Scope, moments: Sequence[Point]) -> int:
    from writ.orchestrator.replay.history import HistoryError
    from writ.orchestrator.replay.picture import difference, picture_at

    try:
        found = [picture_at(stretch, scope, point) for point in moments]
    except HistoryError as error:
        raise CommandError(f"the log cannot be folded: {error}", ["writ replay --verify"]) from error
    if len(found) == 1:
        _show_picture(args, found[0])
        return 0
    changes = difference(*found)
    if args.json:
        one, other = ({"seq": each.seq, "at": each.at} for each in found)
        print_json({"scope": scope, "from": one, "to": other, "changes": changes})
        return 0
    print(f"{scope.words} from record {found[0].seq} to {found[1].seq}: {count(len(changes), 'change')}")
    for change in changes:
        _show_change(change)
    return 0


def _show_picture(args: Namespace, found: Picture) -> None:
    from msgspec.structs import asdict

    from writ.orchestrator.replay.text import clock_time

    if args.json:
        # Whole jobs: encoded, one leaves out what is as it would be anyway.
        jobs = {key: asdict(job) for key, job in found.jobs.items()}
        print_json(asdict(found) | {"jobs": jobs})
        return
    when = f", {clock_time(found.at)}" if found.seq else ""
    print(f"{found.scope.words} after record {found.seq}{when}: {count(len(found.jobs), 'job')}")
    fields([(name, f"{number:,}") for name, number in found.states.items()])
    for name, queue in found.queues.items():
        reason = f" ({queue.reason})" if queue.reason else ""
        print(f"\nqueue {paint(name, 'bold')}: {queue.mode}{reason}, policy version {queue.version}")
        fields([(key, shown(value)) for key, value in flat(queue.policy).items()])
    for name, line in found.order.items():
        words = ", ".join(key.partition("~")[2] for key in line[:_LISTED_MAX])
        more = f" and {len(line) - _LISTED_MAX} more" if len(line) > _LISTED_MAX else ""
        print(f"\n{count(len(line), 'job')} of queue {name} pending, next first: {words}{more}")
    for what, known in (
        ("schedule", found.schedules), ("batch", found.batches), ("operation", found.operations),
    ):  # fmt: skip
        for key in known:
            print(f"{what} {key}")
    live = [job for job in found.jobs.values() if job.finished_at is None and job.state.value != "pending"]
    if live:
        print()
        table = Table(("id", "queue", "state", "standing"), elastic=("standing",))
        for job in live[:_LISTED_MAX]:
            table.add(job.id, job.queue, job.state.value, standing(job))
        table.print()
        if len(live) > _LISTED_MAX:
            print(f"and {len(live) - _LISTED_MAX} more; --json has all")


def _show_change(change: Change) -> None:
    mark, style = {"new": ("+", "green"), "gone": ("-", "red"), "changed": ("~", "yellow")}[change.change]
    print(f"{paint(mark, style)} {change.what} {paint(change.key, 'bold')}")
    for name, (old, new) in change.fields.items():
        print(f"    {name}: {paint(_word(old), 'dim')} -> {_word(new)}")


def _word(value: Any) -> str:
    import msgspec

    if value is None or isinstance(value, str | int | float):
        return "none" if value is None else str(value)
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else f"{text[:200]}..."


def standing(job: Job) -> str:
    """What else there is to say of a state, in a few words."""
    parts = [f"attempt {job.attempt}"]
    if job.round > 1:
        parts.append(f"round {job.round}")
    if job.failures:
        parts.append(f"{job.failures} failed")
    if job.lease_losses:
        parts.append(f"{job.lease_losses} lost")
    if job.lease is not None:
        parts.append(f"leased to {job.lease.worker}")
    if job.wait is not None:
        parts.append(f"waits for {job.wait.reason}")
    return ", ".join(parts)


# --- verify ---------------------------------------------------------------------------------------------


def verify(args: Namespace) -> int:
    """The whole log that can be read: its chain, every transition, every decision."""
    from writ.orchestrator.replay.verify import verify_stretch

    stretch = read_log(args)
    began = time.perf_counter()
    report = verify_stretch(stretch)
    took_s = time.perf_counter() - began
    if args.json:
        print_json({"ok": report.ok, "coverage": stretch.coverage, "report": report})
    else:
        _show_report(report, f"; {report.records / max(took_s, 1e-9):,.0f} records a second")
    return 0 if report.ok else 1


def _show_report(report: Report, more: str = "") -> None:
    head, *rest = report.lines()
    print(f"{head}{more}")
    for line in rest:
        print(f"{paint('mismatch', 'red')}  {line}" if line.startswith("record ") else line)


def verify_job(args: Namespace, told: Told) -> int:
    """One job: its records' lawfulness and decisions, and the view against the fold."""
    from writ.orchestrator.replay.verify import verify_stretch

    report = verify_stretch(told.stretch)
    faults = [f"record {fault.seq}: {fault.rule}: {fault.reason}" for fault in report.faults]
    faults += [] if told.view is None else against_view(told.view, told.steps)
    if args.json:
        from .past import document

        print_json(document(told) | {"ok": not faults, "mismatches": faults, "report": report})
        return 1 if faults else 0
    own = [step for step in told.steps if not step.is_context]
    beside = f"{len(told.steps) - len(own)} beside them that move its lease"
    again = f"{count(report.decisions, 'decision')} made again"
    print(f"{len(own)} records of job {told.job.id} folded again, {beside}; {again}")
    for fault in faults:
        print(f"{paint('mismatch', 'red')}  {fault}")
    if not faults:
        agrees = "" if told.view is None else ", the view agrees"
        same = f"every transition is lawful, every decision comes out the same{agrees}"
        print(f"{paint('no mismatch', 'green')}: {same}")
    if report.unrecorded:
        next_steps("writ replay --verify      (decides again what rests on other jobs too)")
    return 1 if faults else 0


def against_view(view: JobView, steps: Sequence[Step]) -> list[str]:
    """Where the fold of a job's records differs from what the view shows."""
    job = steps[-1].job
    last = max((step.record.seq for step in steps if not step.is_context), default=0)
    pairs: list[tuple[str, Any, Any]] = [
        ("state", job.state.value, view.state.value),
        ("task", job.task, view.task),
        ("actor", job.actor, view.actor),
        ("round", job.round, view.round),
        ("attempt", job.attempt, view.attempt),
        ("failures", job.failures, view.failures),
        ("lease_losses", job.lease_losses, view.lease_losses),
        ("worker", job.lease.worker if job.lease else None, view.worker),
        ("reason", job.reason, view.reason),
        ("seq", last, view.seq),
    ]
    return [
        f"{name}: {ours} in the log, {theirs} in the view" for name, ours, theirs in pairs if ours != theirs
    ]


# --- bundles --------------------------------------------------------------------------------------------


def export(args: Namespace) -> int:
    """Writes a job, those that the filters mean, or all that can be read, into a bundle."""
    from importlib.metadata import version

    from writ.orchestrator.replay.bundle import lines, write
    from writ.orchestrator.replay.stretch import of_jobs

    stretch = read_log(args)
    if args.id is None:
        keys = keys_of(stretch, args.queue, args.task, states_of(args.state))
    else:
        keys = [key_in(stretch, args.id, args.queue)]
    if keys is not None:
        if not keys:
            raise CommandError("no job matches: nothing was exported", ["writ jobs"])
        stretch = of_jobs(stretch, keys)
    made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    by = args.principal or "owner"
    found = lines(
        stretch, made_at=made_at, by=by, version=version("writ-orchestrator"), jobs=tuple(keys or ())
    )
    try:
        write(Path(args.export), found)
    except OSError as error:
        raise UsageError(f"{args.export}: {error.strerror}") from error
    head, _ = read_bundle(args.export)
    if args.json:
        print_json({"file": args.export, "head": head})
        return 0
    what = "everything" if keys is None else count(len(keys), "job")
    print(f"{what} in {count(head.records, 'record')} of tenant {head.tenant} in {args.export}")
    next_steps(f"writ replay --bundle {args.export} --verify")
    return 0


def keys_of(stretch: Stretch, queue: str | None, task: str | None, states: Sequence[str]) -> list[str] | None:
    """The jobs that a filter means; None for everything. Raises HistoryError."""
    if not states and task is None and queue is None:
        return None
    from writ.orchestrator.replay.stretch import folded

    return sorted(
        job.key
        for job in folded(stretch).jobs.values()
        if job.tenant == stretch.tenant
        and queue in (None, job.queue)
        and task in (None, job.task)
        and (not states or job.state.value in states)
    )
