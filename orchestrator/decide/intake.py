"""Deciding a submit: decode it, bound it, and accept or refuse it."""

from __future__ import annotations

import re

import msgspec

from writ.schemas import bounds
from writ.schemas.codec import explain_fault
from writ.schemas.commands import SubmitJob
from writ.schemas.events import Fact, JobSubmitted
from writ.schemas.ids import job_key, token_fault
from writ.schemas.lifecycle import Job, micros
from writ.schemas.policy import Limits
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import seal

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.json.Decoder(SubmitJob).decode
_validate = msgspec.json.Decoder().decode
_TYPES_MAX_BYTES = 16 * 1024
_DERIVED = re.compile(r"\d+-\d+-\d+")
_EARLIEST_US = 0
_LATEST_US = 4_102_444_800 * bounds.SECOND_US
"""The year 2100: a time beyond it is taken for a mistake."""


def malformed(reason: str, field: str | None = None, index: int | None = None) -> Rejection:
    """A refusal for its form. What it quotes of the sender's is cut, and made fit to be stored."""
    return Rejection(
        RejectionKind.MALFORMED, _fit(reason, 500), None if field is None else _fit(field, 200), index
    )


def _fit(text: str, most: int) -> str:
    return text[:most].encode("utf-8", "replace").decode("utf-8")


def split(data: bytes) -> list[bytes | msgspec.Raw] | Rejection:
    """The elements of a submit message: one, or those of its array."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return malformed(f"the message is not UTF-8: byte {error.start} is {data[error.start]:#04x}")
    if not data.lstrip(b" \t\r\n").startswith(b"["):
        return [data]
    try:
        elements = _split(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        return malformed(f"the message is not JSON: {error}")
    if not elements:
        return malformed("the array holds no job")
    if len(elements) > bounds.SUBMIT_ARRAY_MAX_JOBS:
        limit = bounds.SUBMIT_ARRAY_MAX_JOBS
        return Rejection(
            RejectionKind.TOO_LARGE, f"the array holds {len(elements)} jobs; at most {limit} are allowed"
        )
    return list(elements)


def parse(data: bytes | msgspec.Raw, index: int | None) -> SubmitJob | Rejection:
    """One element as a command, or why not. `index` is its place in the array, None for a single one."""
    try:
        command = _decode(data)
    except msgspec.ValidationError as error:
        field, reason = explain_fault(error)
        return malformed(reason, field, index)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return malformed(f"the message is not JSON: {error}", None, index)
    try:
        depth = nesting(_validate(command.input))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return malformed(f"input cannot be read: {error}", "input", index)
    if depth > bounds.NESTING_MAX:
        return malformed(f"input is nested more than {bounds.NESTING_MAX} deep", "input", index)
    size = len(bytes(command.input))
    if size > bounds.INLINE_MAX_BYTES:
        reason = f"input has {size} bytes; at most {bounds.INLINE_MAX_BYTES} are carried inline"
        return Rejection(RejectionKind.TOO_LARGE, reason, "input", index)
    size = sum(len(name.encode()) for name in command.retry.non_retryable_types)
    if size > _TYPES_MAX_BYTES:
        reason = f"the listed types have {size} bytes; at most {_TYPES_MAX_BYTES} are allowed"
        return Rejection(RejectionKind.TOO_LARGE, reason, "retry.non_retryable_types", index)
    if command.id is not None and _DERIVED.fullmatch(command.id):
        reason = "ids of three numbers are kept for submits without one; give another"
        return malformed(reason, "id", index)
    if command.not_before is not None:
        if command.delay_s is not None:
            return malformed("not_before and delay_s are both given; give one", "delay_s", index)
        at = micros(command.not_before.timestamp())
        if not _EARLIEST_US <= at <= _LATEST_US:
            return malformed("not_before lies outside 1970 to 2100", "not_before", index)
    return command


def nesting(value: object) -> int:
    """How deep JSON arrays and objects are nested, counted no further than one past the bound."""
    depth, level = 0, [value]
    while level and depth <= bounds.NESTING_MAX:
        inner = [x for x in level if isinstance(x, dict | list) and x]
        if not inner:
            break
        depth += 1
        level = [y for x in inner for y in (x.values() if isinstance(x, dict) else x)]
    return depth


def address_fault(queue: str, job_id: str, index: int | None) -> Rejection | None:
    """Why queue and id cannot make a key."""
    for value, what in ((queue, "queue"), (job_id, "id")):
        fault = token_fault(value, what)
        if fault:
            return malformed(fault, what, index)
    size = len(job_key(queue, job_id))
    if size > bounds.TOKEN_MAX_BYTES:
        reason = f"queue and id together have {size} bytes; at most {bounds.TOKEN_MAX_BYTES} are allowed"
        return malformed(reason, "id", index)
    return None


def submit(existing: Job | None, command: SubmitJob, now: int) -> tuple[Fact, ...]:
    """The events of a submit; none where the id is taken: the same submit seen again is the same job."""
    if existing is not None:
        return ()
    due_at: int | None = None
    if command.not_before is not None:
        due_at = micros(command.not_before.timestamp())
    elif command.delay_s:
        due_at = now + micros(command.delay_s)
    if due_at is not None and due_at <= now:
        due_at = None
    return (
        JobSubmitted(
            task=command.task,
            input=seal(bytes(command.input)),
            due_at=due_at,
            priority=command.priority,
            retry=command.retry,
            limits=Limits(
                command.lease_s, command.attempt_timeout_s, command.job_timeout_s, command.expires_in_s
            ),
        ),
    )
