"""What a submit must be, whatever the state: clients check it before they send, the orchestrator after."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from . import bounds
from .codec import explain_fault
from .commands import SubmitJob
from .ids import job_key, token_fault
from .lifecycle import micros
from .rejections import Rejection, RejectionKind

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
        deep = too_deep(bytes(command.input))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return malformed(f"input cannot be read: {error}", "input", index)
    if deep:
        return malformed(f"input is nested more than {bounds.NESTING_MAX} deep", "input", index)
    size = len(bytes(command.input))
    if size > bounds.INLINE_MAX_BYTES:
        reason = f"input has {size} bytes; at most {bounds.INLINE_MAX_BYTES} are carried inline"
        return Rejection(RejectionKind.TOO_LARGE, reason, "input", index)
    types = () if command.retry is None else command.retry.non_retryable_types
    size = sum(len(name.encode()) for name in types)
    if size > _TYPES_MAX_BYTES:
        reason = f"the listed types have {size} bytes; at most {_TYPES_MAX_BYTES} are allowed"
        return Rejection(RejectionKind.TOO_LARGE, reason, "retry.non_retryable_types", index)
    if command.id is not None and _DERIVED.fullmatch(command.id):
        reason = "ids of three numbers are kept for submits without one; give another"
        return malformed(reason, "id", index)
    fault = _relations_fault(command, index)
    if fault is not None:
        return fault
    if command.not_before is not None:
        if command.delay_s is not None:
            return malformed("not_before and delay_s are both given; give one", "delay_s", index)
        at = micros(command.not_before.timestamp())
        if not _EARLIEST_US <= at <= _LATEST_US:
            return malformed("not_before lies outside 1970 to 2100", "not_before", index)
    return command


def _relations_fault(command: SubmitJob, index: int | None) -> Rejection | None:
    """What is wrong with what a submit says of other jobs, as far as that needs no state."""
    for field, key in command.input_from.items():
        if key not in command.after:
            reason = f"input_from.{field} names {key}, which is not in after"
            return malformed(reason, "input_from", index)
    if command.input_from and bytes(command.input).lstrip()[:1] not in (b"{", b"n"):
        return malformed("input_from fills fields of an object, and input is none", "input", index)
    return None


def too_deep(data: bytes) -> bool:
    """Whether a JSON text is nested more than NESTING_MAX deep.

    Raises what decoding it raises: it may be JSON in form only, such as a number that nothing can hold.
    """
    value = _validate(data)
    # Nothing is nested deeper than it has brackets: counting them spares a walk through nearly everything.
    return data.count(b"[") + data.count(b"{") > bounds.NESTING_MAX and nesting(value) > bounds.NESTING_MAX


def nesting(value: object) -> int:
    """How deep JSON arrays and objects are nested, counted no further than one past the bound."""
    depth = 0
    level: list[Any] = [value]
    while level and depth <= bounds.NESTING_MAX:
        lists: list[list[Any]] = [x for x in level if isinstance(x, list) and x]
        objects: list[dict[str, Any]] = [x for x in level if isinstance(x, dict) and x]
        lists += [list(x.values()) for x in objects]
        if not lists:
            break
        depth += 1
        level = [y for x in lists for y in x]
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
