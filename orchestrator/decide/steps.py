"""Deciding what the holder of a lease notes: steps, calls of tools, usage."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from writ.schemas import bounds
from writ.schemas.errors import AttemptError
from writ.schemas.events import Fact, WaitReason
from writ.schemas.lifecycle import TERMINAL, Job, State
from writ.schemas.links import Afar
from writ.schemas.notes import (
    AnyRemark,
    ChildSeen,
    Noted,
    Recall,
    Recalled,
    StepFault,
    StepIntent,
    StepResult,
    StepSeen,
    StepUndone,
    TokensUsed,
    ToolCall,
    seen,
    text_of,
)
from writ.schemas.prices import Prices
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import seal, unseal
from writ.schemas.steps import (
    OnUnknown,
    RecordedStep,
    StepBy,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    StepState,
    ToolCalled,
    UsageRecorded,
    owing,
    stepped,
)
from writ.schemas.submits import content_fault, malformed

from .depend import Find
from .lease import Repeated, error_text, fence

_encode = msgspec.json.Encoder().encode
_NULL = b"null"
_RECALLED_MAX_BYTES = 700 * 1024
_STEP_BYTES = 400
"""More than a recorded step weighs in an answer beside its name and its content."""


def note(
    job: Job | None, report: Noted, principal: str, index: int | None, prices: Prices, now: int, seq: int
) -> tuple[Fact, ...] | Repeated | Rejection:
    """The events of one report of notes, which record `seq` will hold. What was had before is passed over."""
    void = fence(job, report, principal, index)
    if void is not None:
        return void
    assert job is not None
    assert job.lease is not None
    known = job.lease.noted
    if report.first > known + 1:
        reason = f"first is {report.first}, but note {known + 1} of this lease has not come"
        return Rejection(RejectionKind.CONFLICT, reason, "first", index)
    fresh = report.notes[known + 1 - report.first :]
    if not fresh:
        return Repeated()
    events: list[Fact] = []
    for remark in fresh:
        event = _noted(job, remark, report.token, prices, now)
        if isinstance(event, Rejection):
            return replace(event, index=index)
        events.append(event)
        job = replace(job, steps=stepped(job.steps, event, seq))
    size = len(_encode(events))
    if size > bounds.NOTES_MAX_BYTES:
        reason = f"the notes have {size} bytes; at most {bounds.NOTES_MAX_BYTES} are recorded at once"
        return Rejection(RejectionKind.TOO_LARGE, reason, "notes", index)
    return tuple(events)


def _noted(job: Job, remark: AnyRemark, token: int, prices: Prices, now: int) -> Fact | Rejection:
    """The event of one note, given those before it."""
    match remark:
        case StepIntent():
            return _intend(job, remark, token)
        case StepResult() | StepFault():
            return _answer(job, remark, token)
        case StepUndone():
            return _undo(job, remark, token)
        case ToolCall():
            return _call(job, remark, token)
        case TokensUsed(model=model, input_tokens=given, output_tokens=got):
            cost = prices.cost(model, given, got, now)
            return UsageRecorded(job.attempt, token, model, given, got, cost, prices.version)


# --- steps ----------------------------------------------------------------------------------------------


def _intend(job: Job, intent: StepIntent, token: int) -> Fact | Rejection:
    fault = _misnumbered(job, intent.step, len(job.steps) + 1)
    if fault is None and intent.step <= len(job.steps):
        fault = _again_fault(job, intent)
    elif fault is None:
        fault = _room_fault(job)
    if fault is not None:
        return fault
    return StepIntended(
        job.attempt,
        token,
        intent.step,
        intent.name,
        intent.params,
        intent.on_unknown,
        intent.compensable,
        intent.again,
    )


def _misnumbered(job: Job, number: int, most: int) -> Rejection | None:
    if number <= most:
        return None
    reason = f"step is {number}, but the job has {len(job.steps)} recorded steps"
    return _conflict(reason)


def _room_fault(job: Job) -> Rejection | None:
    """Why no further step may begin."""
    count, most = len(job.steps), bounds.STEPS_MAX
    if job.compensation is not None:
        return _conflict("the job is ending, and undoes what its steps did; no further step begins")
    if count >= most:
        return Rejection(RejectionKind.TOO_LARGE, f"the job has {count} steps; at most {most} are recorded")
    size, most = sum(step.size_bytes for step in job.steps), bounds.STEPS_MAX_BYTES
    if size >= most:
        reason = f"the results of the steps have {size} bytes; beyond {most} no step begins"
        return Rejection(RejectionKind.TOO_LARGE, reason)
    return None


def _again_fault(job: Job, intent: StepIntent) -> Rejection | None:
    """Why a recorded step may not run again."""
    step = job.steps[intent.step - 1]
    told = f"step {intent.step} is {step.name!r} in the record"
    if step.name != intent.name:
        return _conflict(f"{told} of attempt {step.attempt}, and {intent.name!r} now; steps keep their order")
    if step.state is StepState.DONE or (step.state is StepState.FAILED and step.passed):
        return _conflict(f"{told} and has its answer; it does not run again")
    if step.state is not StepState.INTENDED:
        return None
    if step.token == job.last_token:
        return _conflict(f"{told} and runs in this attempt")
    if intent.again is not step.on_unknown:
        wanted = f"again must be {step.on_unknown}, and is {intent.again or 'left out'}"
        return _conflict(f"{told}, its outcome unknown; {wanted}")
    if step.on_unknown is OnUnknown.ASK and _told(job, step) is not False:
        return _conflict(f"{told}, its outcome unknown; nobody has said that it was not done")
    return None


def _answer(job: Job, report: StepResult | StepFault, token: int) -> Fact | Rejection:
    step = _open(job, report.step)
    fault = step if isinstance(step, Rejection) else _source_fault(job, step, report, token)
    if fault is not None:
        return fault
    if isinstance(report, StepFault):
        error = AttemptError(report.class_, report.type, error_text(report.text))
        return StepFailed(job.attempt, token, report.step, error, report.run_ms, report.by)
    fault = content_fault("result", report.result)
    if fault is not None:
        return fault
    content = bytes(report.result)
    result = None if content == _NULL else seal(content)
    return StepDone(job.attempt, token, report.step, result, report.run_ms, report.by)


def _open(job: Job, number: int) -> RecordedStep | Rejection:
    """The step of which an answer is awaited."""
    fault = _misnumbered(job, number, len(job.steps))
    if fault is not None:
        return fault
    step = job.steps[number - 1]
    if step.state is not StepState.INTENDED:
        return _conflict(f"step {number}, {step.name!r}, is {step.state} already")
    return step


def _source_fault(
    job: Job, step: RecordedStep, report: StepResult | StepFault, token: int
) -> Rejection | None:
    """Why the outcome of a step cannot be known in the way that the report says."""
    held = {
        StepBy.RAN: step.token == token,
        StepBy.PROBED: step.on_unknown is OnUnknown.PROBE and step.token != token,
        StepBy.TOLD: step.on_unknown is OnUnknown.ASK and _told(job, step) is True,
        StepBy.RECORDED: job.reproduces is not None,
    }
    if held[report.by]:
        return None
    begun = f"attempt {step.attempt} began it, and its outcome is {step.on_unknown} if unknown"
    return _conflict(f"step {report.step}, {step.name!r}, cannot be {report.by}: {begun}")


def _undo(job: Job, report: StepUndone, token: int) -> Fact | Rejection:
    fault = _misnumbered(job, report.step, len(job.steps))
    if fault is not None:
        return fault
    owed = owing(job.steps)
    if job.compensation is None:
        # The only one that is undone while its job goes on is one whose outcome is unknown.
        step = job.steps[report.step - 1]
        if step.state is StepState.INTENDED and step.on_unknown is OnUnknown.COMPENSATE:
            return StepCompensated(job.attempt, token, report.step, report.run_ms)
        return _conflict(f"step {report.step}, {step.name!r}, is not to be undone: the job goes on")
    if not owed or owed[0] != report.step:
        last = f"step {owed[0]}, {job.steps[owed[0] - 1].name!r}, is next" if owed else "none is left"
        return _conflict(f"step {report.step} is not the next to be undone: {last}; the last one comes first")
    return StepCompensated(job.attempt, token, report.step, report.run_ms)


def _told(job: Job, step: RecordedStep) -> bool | None:
    """Whether a person said that the step was done; None where nobody has since its intention."""
    for came in reversed(job.signals):
        if came.name == WaitReason.APPROVAL and came.seq > step.seq:
            return bool(msgspec.json.decode(unseal(came.data)).get("done"))
    return None


def outcome_fault(data: msgspec.Raw) -> Rejection | None:
    """Why an approval does not say what became of a step."""
    try:
        said = msgspec.json.decode(data)
    except msgspec.MsgspecError:
        said = None
    if isinstance(said, dict) and isinstance(said.get("done"), bool) and set(said) <= {"done", "result"}:  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        return None
    reason = 'the job waits for word of a step: say {"done": true, "result": ...} or {"done": false}'
    return malformed(reason, "data")


def _conflict(reason: str) -> Rejection:
    return Rejection(RejectionKind.CONFLICT, reason, "step")


# --- tools ----------------------------------------------------------------------------------------------


def _call(job: Job, call: ToolCall, token: int) -> Fact | Rejection:
    fault = content_fault("params", call.params)
    result = None if isinstance(call.result, msgspec.UnsetType) else bytes(call.result)
    if fault is None and result is not None:
        fault = content_fault("result", result)
    if fault is not None:
        return fault
    error = AttemptError(call.class_, call.type, error_text(call.text)) if call.type else None
    return ToolCalled(
        job.attempt,
        token,
        call.tool,
        call.schema,
        seal(bytes(call.params)),
        call.digest,
        call.outcome,
        call.policy,
        call.rule,
        error,
        None if result is None else seal(result),
        call.run_ms,
        call.step,
        call.by,
    )


# --- recalling ------------------------------------------------------------------------------------------


def recall(
    job: Job | None, command: Recall, principal: str, position: int, find: Find, dealt: int = 0
) -> Recalled | Rejection:
    """The recorded steps behind those that the holder has, as many as an answer holds; and its children.

    `dealt` as `Recalled` has it.
    """
    void = fence(job, command, principal)
    if void is not None:
        return void
    assert job is not None
    given: list[StepSeen] = []
    size = 0
    for step in job.steps[command.after :]:
        size += step.size_bytes + len(step.name.encode()) * 2 + _STEP_BYTES
        if given and size > _RECALLED_MAX_BYTES:
            break
        given.append(seen(step))
    children: list[ChildSeen] = []
    for key in command.children:
        child = _child_seen(job, key, find)
        size += len(child.output) + len(child.why) * 2 + _STEP_BYTES
        if size > _RECALLED_MAX_BYTES and (given or children):
            child = replace(child, output=msgspec.Raw(_NULL), cut=True)
        children.append(child)
    return Recalled(None, position, tuple(given), len(job.steps), tuple(children), dealt)


def _child_seen(parent: Job, key: str, find: Find) -> ChildSeen:
    """How a job stands that its parent started; of any other nothing is told."""
    child = find(key)
    if isinstance(child, Afar) and child.gone:
        return ChildSeen(key, State.DEAD, why="it was refused, or is gone; `writ audit` tells")
    if isinstance(child, Afar) and child.state is None:
        return ChildSeen(key, afar=True)
    if child is None or child.parent != parent.key or child.state is None:
        return ChildSeen(key)
    if child.state is State.COMPLETED and child.output is not None:
        return ChildSeen(key, child.state, msgspec.Raw(unseal(child.output)))
    why = "" if isinstance(child, Afar) or child.state not in TERMINAL else child.reason or ""
    error = None if isinstance(child, Afar) else child.error
    if why and error is not None:
        why = f"{why}: {error.type}: {text_of(error).partition(chr(10))[0]}"
    return ChildSeen(key, child.state, why=why[: bounds.REASON_MAX_CHARS])
