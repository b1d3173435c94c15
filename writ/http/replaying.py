"""Forensics over HTTP: the log folded, compared, verified and supposed otherwise, as `writ replay` does.

The log is read through the node, page by page, and folded in a thread, one request at a time: whoever wants
more than fits here has the command line, which folds in a process of its own.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, ParamSpec, TypeVar

import msgspec
from msgspec import Meta, structs

from writ.cli.fetch import job_with_records
from writ.cli.replays import against_view, keys_of
from writ.cli.stretches import of_records, whole_log
from writ.orchestrator.replay.bundle import lines
from writ.orchestrator.replay.history import HistoryError, at_point, steps_of_views
from writ.orchestrator.replay.otherwise import WhatIf
from writ.orchestrator.replay.picture import Change, Picture, Scope, difference, picture_at
from writ.orchestrator.replay.stretch import Coverage, Point, Stretch, of_jobs
from writ.orchestrator.replay.verify import Report, verify_stretch
from writ.orchestrator.replay.whatif import supposing
from writ.projections import places
from writ.projections.registry import VIEWS
from writ.projections.shown import timestamp
from writ.schemas.forms import QueueName, Token
from writ.schemas.ids import job_key
from writ.schemas.queries import SEQUENCE_MAX
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.schedules import log_time
from writ.schemas.states import State

from .problems import Fault
from .route import ACCEPTED, Call, Reply

if TYPE_CHECKING:
    from writ.schemas.queries import JobView, RecordView

RECORDS_MAX: Final = 100_000
"""A longer log is not read for one request."""

BUNDLE: Final = "application/x-ndjson"

Sequence = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)] | None
Time = Annotated[datetime.datetime, Meta(tz=True)] | None
P = ParamSpec("P")
R = TypeVar("R")
_turn: Final = asyncio.Lock()


# --- what is asked ----------------------------------------------------------------------------------------


class Some(msgspec.Struct, frozen=True, kw_only=True):
    """Of what there is, `limit` after the first `skip`."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    skip: Annotated[int, Meta(ge=0, le=10**9)] = 0


class OfAll(Some, frozen=True, kw_only=True):
    """A whole tenant, or one of its queues, at a moment: by sequence or time, the log's end without."""

    queue: QueueName | None = None
    seq: Sequence = None
    at: Time = None


class JobAt(msgspec.Struct, frozen=True, kw_only=True):
    """A job at a moment."""

    queue: QueueName
    id: Token
    seq: Sequence = None
    at: Time = None


class AllBetween(Some, frozen=True, kw_only=True):
    """Between two moments: from the log's beginning, and to its end, where none is given."""

    queue: QueueName | None = None
    from_seq: Sequence = None
    from_at: Time = None
    to_seq: Sequence = None
    to_at: Time = None


class JobBetween(Some, frozen=True, kw_only=True):
    """The same of a job."""

    queue: QueueName
    id: Token
    from_seq: Sequence = None
    from_at: Time = None
    to_seq: Sequence = None
    to_at: Time = None


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs by queue, task and states; everything where none is given."""

    queue: QueueName | None = None
    task: Annotated[str, Meta(min_length=1, max_length=1_000)] | None = None
    states: tuple[State, ...] = ()


ViewName = Literal[*[make().name for make in VIEWS]]  # type: ignore[valid-type]


class OfView(msgspec.Struct, frozen=True, kw_only=True):
    name: ViewName  # type: ignore[valid-type]


# --- what is answered -------------------------------------------------------------------------------------


class Replayed(msgspec.Struct, frozen=True):
    """All that stood in a tenant or queue after record `seq`.

    Of the `total` jobs some are shown, by key; `order` has the keys of the pending ones as they would be
    granted.
    """

    seq: int
    at: str
    total: int
    states: dict[str, int]
    jobs: dict[str, Any]
    queues: dict[str, Any]
    order: dict[str, list[str]]
    schedules: dict[str, Any]
    batches: dict[str, Any]
    operations: dict[str, Any]


class ReplayedJob(msgspec.Struct, frozen=True):
    """A job as it was after record `seq`."""

    id: str
    queue: str
    tenant: str
    seq: int
    job: Any


class Changes(msgspec.Struct, frozen=True):
    """What changed between two records: `total` things, some of which are shown."""

    from_seq: int
    to_seq: int
    total: int
    changes: tuple[Change, ...]


class Verified(msgspec.Struct, frozen=True):
    """Whether everything is as it must be. `mismatches` are those of a job's view with its records."""

    ok: bool
    coverage: Coverage
    report: Report
    mismatches: tuple[str, ...] = ()


class Supposition(msgspec.Struct, frozen=True):
    """What would have come out; of the jobs that would have come out otherwise, in all `total`, some."""

    total: int
    what_if: WhatIf


class Rebuilding(msgspec.Struct, frozen=True):
    """A view is built anew beside the one that answers, which it then replaces."""

    view: str


# --- tenants and queues -----------------------------------------------------------------------------------


async def replay(call: Call) -> Reply:
    asked: OfAll = call.params
    point = _point(asked.seq, asked.at)
    stretch = await _stretch(call, point)
    found = await _folded(picture_at, stretch, Scope(stretch.tenant, asked.queue), point)
    return Reply(_replayed(found, asked), found.seq)


def _replayed(found: Picture, asked: OfAll) -> Replayed:
    keys = sorted(found.jobs)[asked.skip : asked.skip + asked.limit]
    return Replayed(
        found.seq,
        timestamp(found.at),
        len(found.jobs),
        found.states,
        {key: structs.asdict(found.jobs[key]) for key in keys},
        found.queues,
        found.order,
        found.schedules,
        found.batches,
        found.operations,
    )


async def diff(call: Call) -> Reply:
    asked: AllBetween = call.params
    stretch = await _stretch(call, _point(asked.to_seq, asked.to_at))
    return await _changes(stretch, Scope(stretch.tenant, asked.queue), asked)


async def _changes(stretch: Stretch, scope: Scope, asked: AllBetween | JobBetween) -> Reply:
    begin = Point(seq=0) if (asked.from_seq, asked.from_at) == (None, None) else None
    points = (begin or _point(asked.from_seq, asked.from_at), _point(asked.to_seq, asked.to_at))
    one, other = [await _folded(picture_at, stretch, scope, point) for point in points]
    found = difference(one, other)
    some = tuple(found[asked.skip : asked.skip + asked.limit])
    return Reply(Changes(one.seq, other.seq, len(found), some), other.seq)


async def verify(call: Call) -> Reply:
    stretch = await _stretch(call)
    report = await _folded(verify_stretch, stretch)
    return Reply(Verified(report.ok, stretch.coverage, report), report.last_seq)


async def what_if(call: Call) -> Reply:
    asked: Some = call.params
    stretch = await _stretch(call)
    found = await _folded(supposing, stretch, call.body)
    some = found.otherwise[asked.skip : asked.skip + asked.limit]
    told = Supposition(len(found.otherwise), structs.replace(found, otherwise=some))
    return Reply(told, stretch.last)


async def export(call: Call) -> Reply:
    asked: Which = call.params
    stretch = await _stretch(call)
    keys = await _folded(keys_of, stretch, asked.queue, asked.task, tuple(map(str, asked.states)))
    return await _bundle(call, stretch, keys)


# --- one job ----------------------------------------------------------------------------------------------


async def replay_job(call: Call) -> Reply:
    asked: JobAt = call.params
    view, records = await job_with_records(call.client, asked.id, asked.queue)
    point = _point(asked.seq, asked.at)
    steps = steps_of_views(records)
    job = at_point(steps, point.seq, point.at)
    if job is None:
        raise Fault(404, f"job {asked.id} did not exist then; its first record is {steps[0].record.seq}")
    last = max(step.record.seq for step in steps if not point.before(step.record))
    return Reply(ReplayedJob(job.id, job.queue, job.tenant, last, structs.asdict(job)), view.seq)


async def diff_job(call: Call) -> Reply:
    asked: JobBetween = call.params
    stretch, _, _ = await _of_job(call)
    return await _changes(stretch, Scope(stretch.tenant, None, job_key(asked.queue, asked.id)), asked)


async def verify_job(call: Call) -> Reply:
    stretch, view, records = await _of_job(call)
    report = await _folded(verify_stretch, stretch)
    mismatches = tuple(against_view(view, steps_of_views(records)))
    return Reply(Verified(report.ok and not mismatches, stretch.coverage, report, mismatches), view.seq)


async def export_job(call: Call) -> Reply:
    stretch = await _stretch(call)
    view = await call.client.job(call.params.id, call.params.queue)
    return await _bundle(call, stretch, [job_key(view.queue, view.id)])


async def _of_job(call: Call) -> tuple[Stretch, JobView, list[RecordView]]:
    view, records = await job_with_records(call.client, call.params.id, call.params.queue)
    return of_records(view, records), view, records


# --- views ------------------------------------------------------------------------------------------------


async def rebuild(call: Call) -> Reply:
    name: str = call.params.name
    verdict = await call.client.can("rebuild_view")
    if not verdict.allowed:
        why = f"{call.client.target.principal} may not rebuild_view: {verdict.reason} [{verdict.rule}]"
        raise Fault.refused(Rejection(RejectionKind.DENIED, why))
    await asyncio.to_thread(places.ask, call.directory / "views" / f"{name}.db")
    return Reply(Rebuilding(name), status=ACCEPTED, location="/v1/status")


# --- reading ----------------------------------------------------------------------------------------------


def _point(seq: int | None, at: datetime.datetime | None) -> Point:
    return Point(seq, None if at is None else log_time(at))


async def _stretch(call: Call, point: Point | None = None) -> Stretch:
    """The log up to a moment given by its sequence, else all of it. Raises Fault where it is too long."""
    upto = None if point is None else point.seq
    last = (await call.client.stretch(limit=1)).last
    if min(last, last if upto is None else upto) > RECORDS_MAX:
        reason = f"the log has {last} records; at most {RECORDS_MAX} are replayed here"
        raise Fault(409, f"{reason}, and writ replay has no such limit; or name a moment before that by seq")
    return await whole_log(call.client, upto)


async def _folded(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What takes the processor for long, in a thread, after what others have asked for. Raises Fault."""
    async with _turn:
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except HistoryError as error:
            raise Fault(409, f"the log cannot be folded: {error}; see /v1/replay/verification") from error


async def _bundle(call: Call, stretch: Stretch, keys: list[str] | None) -> Reply:
    if keys is not None:
        if not keys:
            raise Fault(404, "no job is as was asked for: there is nothing to export")
        stretch = await _folded(of_jobs, stretch, keys)
    made_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    by = call.client.target.principal
    found: Iterator[bytes] = lines(
        stretch, made_at=made_at, by=by, version=version("writ-orchestrator"), jobs=tuple(keys or ())
    )
    return Reply(found, stretch.last)
