"""Submits before they are sent: ids for them, and the refusals that need no orchestrator."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from writ.schemas.bounds import INLINE_MAX_BYTES, TOKEN_MAX_BYTES
from writ.schemas.codec import explain_fault
from writ.schemas.commands import SubmitJob
from writ.schemas.ids import job_key, token_fault
from writ.schemas.rejections import Rejection, RejectionKind

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TYPES_MAX_BYTES: Final = 16 * 1024
_DERIVED: Final = re.compile(r"\d+-\d+-\d+")
_decode = msgspec.json.Decoder(SubmitJob).decode
_validate = msgspec.json.Decoder().decode


def _crockford(value: int, length: int) -> str:
    """Crockford's base32: digits and letters that sort as the numbers do, without I, L, O and U."""
    return "".join([_ALPHABET[(value >> shift) & 31] for shift in range(5 * (length - 1), -1, -5)])


def new_job_id(wall_ms: int, entropy: Callable[[int], bytes]) -> str:
    """26 characters, sorting by time: 48 bits of milliseconds since 1970, then 80 of chance.

    Source: ULID specification, https://github.com/ulid/spec.
    """
    return _crockford((wall_ms & (2**48 - 1)) << 80 | int.from_bytes(entropy(10), "big"), 26)


def nonce(entropy: Callable[[int], bytes]) -> str:
    """16 characters that nobody can guess."""
    return _crockford(int.from_bytes(entropy(10), "big"), 16)


def check_submit(queue: str, body: bytes, index: int | None = None) -> Rejection | None:
    """Why the orchestrator would refuse a submit, in its own words; None where nothing is wrong."""
    try:
        command = _decode(body)
        _validate(command.input)
    except msgspec.ValidationError as error:
        field, reason = explain_fault(error)
        return Rejection(RejectionKind.MALFORMED, reason[:500], field, index)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        return Rejection(RejectionKind.MALFORMED, f"the message is not JSON: {error}"[:500], None, index)
    size = len(bytes(command.input))
    if size > INLINE_MAX_BYTES:
        reason = f"input has {size} bytes; at most {INLINE_MAX_BYTES} are carried inline"
        return Rejection(RejectionKind.TOO_LARGE, reason, "input", index)
    size = sum(len(name.encode()) for name in command.retry.non_retryable_types)
    if size > _TYPES_MAX_BYTES:
        reason = f"the listed types have {size} bytes; at most {_TYPES_MAX_BYTES} are allowed"
        return Rejection(RejectionKind.TOO_LARGE, reason, "retry.non_retryable_types", index)
    if command.id is not None and _DERIVED.fullmatch(command.id):
        reason = "ids of three numbers are kept for submits without one; give another"
        return Rejection(RejectionKind.MALFORMED, reason, "id", index)
    if command.not_before is not None and command.delay_s is not None:
        reason = "not_before and delay_s are both given; give one"
        return Rejection(RejectionKind.MALFORMED, reason, "delay_s", index)
    return _address_fault(queue, command.id or "", index)


def _address_fault(queue: str, job_id: str, index: int | None) -> Rejection | None:
    for value, what in ((queue, "queue"), (job_id, "id")):
        fault = token_fault(value, what)
        if fault:
            return Rejection(RejectionKind.MALFORMED, fault, what, index)
    size = len(job_key(queue, job_id))
    if size > TOKEN_MAX_BYTES:
        reason = f"queue and id together have {size} bytes; at most {TOKEN_MAX_BYTES} are allowed"
        return Rejection(RejectionKind.MALFORMED, reason, "id", index)
    return None
