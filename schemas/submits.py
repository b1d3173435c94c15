"""What a submit must be, whatever the state: clients check it before they send, the orchestrator after."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from . import bounds
from .commands import SubmitJob
from .faults import explain_fault
from .ids import job_key, queue_fault, token_fault
from .lifecycle import micros
from .policy import Retry
from .rejections import Rejection, RejectionKind

_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.json.Decoder(SubmitJob).decode
_validate = msgspec.json.Decoder().decode
_TYPES_MAX_BYTES = 16 * 1024
_FILLED_MAX_BYTES = 8 * 1024
_KINDS = {"[": "an array", '"': "a string", "t": "true", "f": "false"}
_DERIVED = re.compile(r"\d+-\d+-\d+")
_TAG_NAME = re.compile(r"[A-Za-z0-9_\-./]+")
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
    limit = bounds.SUBMIT_ARRAY_MAX_JOBS
    if not elements:
        return malformed(f"the array holds no job; 1 to {limit} are allowed")
    if len(elements) > limit:
        return Rejection(
            RejectionKind.TOO_LARGE, f"the array holds {len(elements)} jobs; at most {limit} are allowed"
        )
    return list(elements)


def parse(data: bytes | msgspec.Raw, index: int | None) -> SubmitJob | Rejection:
    """One element as a command, or why not. `index` is its place in the array, None for a single one."""
    try:
        command = _decode(data)
    except msgspec.ValidationError as error:
        field, reason = explain_fault(error, data, SubmitJob)
        return malformed(reason, field, index)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return malformed(f"the message is not JSON: {error}", None, index)
    fault = (
        content_fault("input", command.input, index)
        or retry_fault(command.retry, "retry", index)
        or _relations_fault(command, index)
        or _tags_fault(command.tags, index)
    )
    if fault is not None:
        return fault
    if command.id is not None and _DERIVED.fullmatch(command.id):
        reason = f"id {command.id} is of three numbers, which are kept for submits without one; give another"
        return malformed(reason, "id", index)
    if command.not_before is not None:
        when = command.not_before.isoformat()
        if command.delay_s is not None:
            reason = f"not_before {when} and delay_s {command.delay_s:g} are both given; give one"
            return malformed(reason, "delay_s", index)
        at = micros(command.not_before.timestamp())
        if not _EARLIEST_US <= at <= _LATEST_US:
            return malformed(f"not_before is {when}; it must lie in 1970 to 2100", "not_before", index)
    return command


def content_fault(what: str, content: bytes | msgspec.Raw, index: int | None = None) -> Rejection | None:
    """Why a field's content, an input or an output, cannot be carried in a record."""
    size = len(bytes(content))
    if size > bounds.INLINE_MAX_BYTES:
        reason = f"{what} has {size} bytes; at most {bounds.INLINE_MAX_BYTES} are carried inline"
        return Rejection(RejectionKind.TOO_LARGE, reason, what, index)
    try:
        value = _validate(content)
        # Nothing is deeper than it has brackets: counting them spares a walk through nearly everything.
        brackets = bytes(content).count(b"[") + bytes(content).count(b"{")
        depth = 0 if brackets <= bounds.NESTING_MAX else nesting(value)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return malformed(f"{what} cannot be read: {error}", what, index)
    if depth > bounds.NESTING_MAX:
        reason = f"{what} is nested {depth} deep or more; at most {bounds.NESTING_MAX} are allowed"
        return malformed(reason, what, index)
    return None


def retry_fault(retry: Retry | None, field: str, index: int | None = None) -> Rejection | None:
    """Why a retry policy cannot be carried in a record."""
    types = () if retry is None else retry.non_retryable_types
    size = sum(len(name.encode()) for name in types)
    if size <= _TYPES_MAX_BYTES:
        return None
    field = f"{field}.non_retryable_types"
    reason = f"{field} has {size} bytes; at most {_TYPES_MAX_BYTES} are allowed"
    return Rejection(RejectionKind.TOO_LARGE, reason, field, index)


def _relations_fault(command: SubmitJob, index: int | None) -> Rejection | None:
    """What is wrong with what a submit says of other jobs, as far as that needs no state."""
    if not command.input_from:
        return None
    for field, key in command.input_from.items():
        if key not in command.after:
            reason = f"input_from.{field} names {key}, which is not in after"
            return malformed(reason, "input_from", index)
    size = sum(len(field.encode()) for field in command.input_from)
    if size > _FILLED_MAX_BYTES:
        reason = f"the fields of input_from have {size} bytes; at most {_FILLED_MAX_BYTES} are allowed"
        return Rejection(RejectionKind.TOO_LARGE, reason, "input_from", index)
    most = bounds.AFTER_MAX
    if len(command.input_from) > most:
        reason = f"input_from fills {len(command.input_from)} fields; at most {most} are allowed"
        return Rejection(RejectionKind.TOO_LARGE, reason, "input_from", index)
    return filled_fault(command.input_from, command.input, index)


def _tags_fault(tags: dict[str, str], index: int | None) -> Rejection | None:
    """Why tags cannot be carried in a record."""
    if len(tags) > bounds.TAGS_MAX:
        reason = f"tags has {len(tags)} names; at most {bounds.TAGS_MAX} are allowed"
        return Rejection(RejectionKind.TOO_LARGE, reason, "tags", index)
    for name, value in tags.items():
        if len(name) > bounds.TAG_NAME_MAX_CHARS or not _TAG_NAME.fullmatch(name):
            allowed = f"a name has 1 to {bounds.TAG_NAME_MAX_CHARS} letters, digits and _ - . /"
            return malformed(f"tags names {name[:100]!r}; {allowed}", "tags", index)
        if len(value) > bounds.TAG_VALUE_MAX_CHARS:
            reason = (
                f"tags.{name} has {len(value)} characters; at most {bounds.TAG_VALUE_MAX_CHARS} are allowed"
            )
            return Rejection(RejectionKind.TOO_LARGE, reason, f"tags.{name}", index)
    return None


def filled_fault(
    input_from: dict[str, str], content: msgspec.Raw, index: int | None = None
) -> Rejection | None:
    """Why `input_from` cannot fill this input: it is no object, nor nothing."""
    if not input_from:
        return None
    begins = bytes(content).lstrip()[:1].decode()
    if begins not in ("{", "n"):
        kind = _KINDS.get(begins, "a number")
        return malformed(f"input_from fills fields of an object, and input is {kind}", "input", index)
    return None


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
    for fault, what in ((queue_fault(queue), "queue"), (token_fault(job_id, "id"), "id")):
        if fault:
            return malformed(fault, what, index)
    size = len(job_key(queue, job_id))
    if size > bounds.TOKEN_MAX_BYTES:
        reason = f"queue and id together have {size} bytes; at most {bounds.TOKEN_MAX_BYTES} are allowed"
        return malformed(reason, "id", index)
    return None
